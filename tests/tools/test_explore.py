"""The explorer: what the page holds, and what it does in a real browser."""

import base64
import dataclasses
import gzip
import http.client
import itertools
import json
import re
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import browser, tiny, twins, warm
from vit_tf import errors
from vit_tf.inspection import image_sets, inspector, measures
from vit_tf.inspection.explorer import explorer_page

# What "pixels of the canvas" a script needs to see whether the picture changed.
PAINTED = "document.getElementById('stage').toDataURL()"
READOUT = "document.getElementById('readout').textContent"
LIVE = "document.getElementById('readout').getAttribute('aria-live')"


def _subject(name="token", number=3, names=None, **settings):
    model = twins.filled(twins.TWINS[name](**settings))
    pixels = np.clip(twins.images(model, batch=number), -1, 1)
    labels = np.arange(number)
    names = names or tuple(f"photo {i}" for i in range(number))
    shown = image_sets.Gallery(pixels, names, labels, "places", 50)
    classes = ("ape", "<b>bee", "cat", "dog", "eel")
    return inspector.Inspector(model, name, shown, class_names=classes)


def _write(seen, folder, **changes):
    folder.mkdir(exist_ok=True)
    changes = {"max_megabytes": 10.0, **changes}
    return explorer_page.write(seen, str(folder), **changes)


def _read(folder):
    """The page's text, its data, and what is packed for each image."""
    text = (folder / "index.html").read_text()
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    packed = re.findall(r'id="packed-\d+">(.*?)</script>', text)
    return (
        text,
        json.loads(data),
        [gzip.decompress(base64.b64decode(p)) for p in packed],
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), tokens=st.integers(1, 40), sharp=st.floats(0, 30))
def test_eight_bits_are_off_by_little(seed, tokens, sharp):
    scores = sharp * np.random.default_rng(seed).standard_normal((3, 2, tokens))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = (weights / weights.sum(axis=-1, keepdims=True)).astype("float32")
    scales, rows = explorer_page.quantise(weights)
    assert rows.dtype == np.uint8 and rows.shape == weights.shape
    scales = scales[..., None]
    off = np.abs((rows / 255) ** 2 * scales - weights)
    # Half a step of the root, at both ends of it: (r + 1/510)^2 - r^2.
    assert (off <= (np.sqrt(weights * scales) / 255 + scales / 510**2) * 1.001).all()
    assert off.max() <= 1.01 / 255
    assert (rows.max(axis=-1) == 255).all()


@pytest.mark.parametrize(
    "name",
    ["gap+sincos2d", "relative", pytest.param("hybrid", marks=pytest.mark.slow)],
)
def test_the_page_holds_the_models_attention(tmp_path, name):
    seen = _subject(name)
    written = _write(seen, tmp_path)
    _, data, packed = _read(tmp_path)
    model = seen.network
    tokens, maps = model.num_tokens, model.num_blocks * model.num_heads
    assert written.images == len(packed) == 3 and not written.left_out
    for image, content in enumerate(packed):
        rows = (maps + 1) * tokens
        scales = np.frombuffer(content, "<f4", rows)
        weights = np.frombuffer(content, np.uint8, offset=4 * rows) / 255
        weights = weights.reshape(maps + 1, tokens, tokens) ** 2
        weights = weights * scales.reshape(maps + 1, tokens, 1)
        attention = measures.attention_weights(model, seen.images.pixels[[image]])
        want = np.concatenate([block[0] for block in attention])
        np.testing.assert_allclose(weights[:maps], want, atol=1 / 254)
        rollout = measures.attention_rollout(attention)[0]
        np.testing.assert_allclose(weights[maps], rollout, atol=1 / 254)
    assert data["first"] == model.has_class_token and data["grid"] == model.grid
    if name == "relative":
        assert data["similarity"] is None and "no positions" in data["no_similarity"]
        return
    cosines = np.frombuffer(base64.b64decode(data["similarity"]), np.uint8)
    want = measures.position_similarity(measures.position_table(model))
    np.testing.assert_allclose(cosines / 127.5 - 1, want.ravel(), atol=1 / 254)


def test_the_page_holds_the_models_answers_and_needs_nothing_else(tmp_path):
    seen = _subject(names=("</script><script>alert(1)</script>", "b", "c"))
    _write(seen, tmp_path)
    text, data, _ = _read(tmp_path)
    assert "alert(1)</script>" not in text and "<b>bee" not in text
    assert data["images"][0]["name"] == "</script><script>alert(1)</script>"
    for row, about, label in zip(
        seen.probabilities, data["images"], ["ape", "<b>bee", "cat"]
    ):
        told = [seen.class_names.index(name) for name, _ in about["prediction"]]
        assert told == np.argsort(-row).tolist() and about["label"] == label
        shares = [share for _, share in about["prediction"]]
        np.testing.assert_allclose(shares, np.sort(row)[::-1], atol=1e-6)
    assert not re.search(r"https?://|\bsrc=|\bhref=\"(?!data:)", text)
    assert "default-src 'none'" in text
    assert "3 of 50 images of places" in data["footer"]


def test_the_size_is_kept_and_said(tmp_path):
    seen = _subject()
    whole = _write(seen, tmp_path)
    size = (tmp_path / "index.html").stat().st_size
    assert whole.megabytes == pytest.approx(size / 1e6)
    part = whole.megabytes - 1e-4  # not even a little less
    written = _write(seen, tmp_path, max_megabytes=part)
    assert (written.images, written.left_out) == (2, 1)
    assert len(_read(tmp_path)[2]) == written.images
    assert written.megabytes <= part
    with pytest.raises(errors.UserError, match="max_megabytes=0.001: a page with one"):
        _write(seen, tmp_path, max_megabytes=0.001)


def test_some_layers_can_be_kept(tmp_path):
    seen = _subject("token", depth=4)
    _write(seen, tmp_path, blocks=[3, 1])
    _, data, packed = _read(tmp_path)
    tokens, heads = seen.network.num_tokens, seen.network.num_heads
    assert data["blocks"] == [1, 3]
    assert len(packed[0]) == (2 * heads + 1) * tokens * (tokens + 4)
    with pytest.raises(errors.UserError, match="has no block 4; it has 0 to 3"):
        _write(seen, tmp_path, blocks=[4])


def test_models_without_attention_are_refused(tmp_path):
    with pytest.raises(errors.UserError, match="a ResNet has no tokens"):
        _write(_subject("resnet"), tmp_path)
    nothing = dataclasses.replace(_subject(), images=None)
    with pytest.raises(errors.UserError, match="needs images"):
        _write(nothing, tmp_path)


def test_answers_that_are_not_finite_are_refused(tmp_path):
    for part in ("embedding", "head"):
        seen = _subject()
        (kernel,) = [v for v in seen.network.weights if f"{part}/kernel" in v.path]
        kernel.assign(np.full(kernel.shape, np.nan))
        with pytest.raises(errors.UserError, match="answers are not finite numbers"):
            _write(seen, tmp_path)
    assert not (tmp_path / "index.html").exists()


BROWSER = pytest.mark.needs("chromium")

# In a browser --------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page of three images: 4 x 4 patches, 2 layers of 4 heads."""
    folder = tmp_path_factory.mktemp("explorer")
    _write(_subject("token"), folder)
    return f"file://{folder / 'index.html'}"


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser(browser.find()) as opened:
        yield opened


def _open(chromium, page, **how):
    chromium.open(page, **how)
    chromium.wait(f"{READOUT} != ''")
    chromium.settle()
    script = "(({x, y, width}) => [x, y, width])({}.getBoundingClientRect())"
    return chromium.value(script.replace("{}", "document.getElementById('stage')", 1))


def _over(stage, row, column, side=4):
    """The middle of a patch."""
    x, y, width = stage
    return x + (column + 0.5) * width / side, y + (row + 0.5) * width / side


def _clean(chromium):
    assert chromium.errors == []
    outside = [r for r in chromium.requests if not r.startswith(("file:", "data:"))]
    assert outside == []


@pytest.mark.slow
@BROWSER
def test_hovering_shows_the_patch(chromium, page):
    stage = _open(chromium, page)
    seen = set()
    for row, column in ((0, 0), (3, 1), (1, 2)):
        chromium.mouse("mouseMoved", *_over(stage, row, column))
        words = chromium.value(READOUT)
        assert words.startswith(f"The patch at row {row + 1}, column {column + 1} in")
        seen.add(chromium.value(PAINTED))
    assert len(seen) == 3, "every patch paints another overlay"
    _clean(chromium)


def _names_the_largest(words, patches, *, largest):
    """The patch that is read out takes most, up to what eight bits cannot tell."""
    row, column = map(int, re.search(r"from row (\d+), column (\d+)", words).groups())
    named = patches[4 * (row - 1) + column - 1]
    assert named >= patches.max() - 2 * np.sqrt(patches.max() * largest) / 255, words
    told = float(re.search(r"takes most \(([\d.]+) %", words)[1])
    assert told == pytest.approx(100 * named, rel=0.1)


@BROWSER
def test_what_is_read_out_is_the_models_attention(chromium, page):
    seen = _subject("token")
    stage = _open(chromium, page)
    chromium.mouse("mouseMoved", *_over(stage, 2, 1))
    attention = measures.attention_weights(seen.network, seen.images.pixels[[0]])
    row = attention[-1][0].mean(axis=0)[1 + 4 * 2 + 1]  # after the class token
    words = chromium.value(READOUT)
    _names_the_largest(words, row[1:], largest=row.max())
    for share in re.findall(r"([\d.]+) % from the class token", words):
        assert float(share) == pytest.approx(100 * row[0], rel=0.1, abs=0.6)
    told = chromium.value("document.querySelector('#prediction li').innerText")
    assert told.split()[0] == seen.class_name(int(seen.probabilities[0].argmax()))
    chromium.value("document.getElementById('stage').focus()")
    chromium.press("r")
    assert "over all layers" in chromium.value(READOUT)
    chromium.press("o")
    rollout = measures.attention_rollout(attention)[0, 0]
    words = chromium.value(READOUT)
    assert words.startswith("The class token over all layers")
    _names_the_largest(words, rollout[1:], largest=rollout.max())
    _clean(chromium)


@BROWSER
def test_the_keyboard_reaches_everything(chromium, page):
    stage = _open(chromium, page)
    chromium.value("document.getElementById('stage').focus()")
    painted = [chromium.value(PAINTED)]
    for key, said in (
        ("ArrowUp", "row 2, column 3 in layer 2, mean of heads"),
        ("ArrowLeft", "row 2, column 2 in layer 2"),
        ("L", "in layer 1, mean of heads"),
        ("h", "in layer 1, head 1"),
        ("H", "in layer 1, mean of heads"),
        ("n", "in layer 1, mean of heads"),
        ("v", "in layer 1, mean of heads"),
    ):
        chromium.press(key)
        chromium.wait(f"{READOUT}.includes('{said}')")
        chromium.settle()
        painted.append(chromium.value(PAINTED))
    changed = [a != b for a, b in itertools.pairwise(painted)]
    assert all(changed), changed
    which = "document.getElementById('which').textContent"
    assert chromium.value(which) == "photo 1"
    chromium.press("p")
    chromium.press("p")
    chromium.wait(f"{which} == 'photo 2'")
    assert chromium.value(LIVE) == "polite", "what keys choose is read aloud"
    chromium.mouse("mouseMoved", *_over(stage, 0, 0))
    assert chromium.value(LIVE) == "off", "what a mouse passes is not"
    # Arrows inside a row of tiles choose among them, and the chosen one has the focus.
    chromium.value("document.querySelector('#layers [aria-checked=true]').focus()")
    chromium.press("ArrowRight")
    chosen = "document.querySelector('#layers [aria-checked=true]')"
    assert chromium.value(f"{chosen} === document.activeElement")
    assert "in layer 2" in chromium.value(READOUT)
    _clean(chromium)


@pytest.mark.slow
@BROWSER
def test_keys_meant_for_others_are_left_alone(chromium, page):
    _open(chromium, page)
    before = chromium.value(READOUT)
    chromium.value(
        "window.left = 0, addEventListener('keydown', event => { left += !event.defaultPrevented; }), 0"
    )
    for focus, keys in (
        ("document.activeElement.blur()", ("ArrowDown", "ArrowUp", "l", "r")),
        ("document.querySelector('#keys summary').focus()", ("ArrowDown", "ArrowLeft")),
    ):
        chromium.value(focus)
        for key in keys:
            chromium.press(key)
    assert chromium.value("left") == 6 and chromium.value(READOUT) == before
    chromium.press("r")
    assert "over all layers" in chromium.value(READOUT), "letters anywhere in main"
    _clean(chromium)


@pytest.mark.slow
@BROWSER
def test_an_image_that_cannot_be_unpacked_is_said(chromium, page):
    _open(chromium, page)
    chromium.value("document.getElementById('stage').focus()")
    for image, harm in ((1, "text.slice(0, 400)"), (2, "'H4sI' + text.slice(9)")):
        node = f"document.getElementById('packed-{image}')"
        chromium.value(
            f"(text => {{ {node}.textContent = {harm}; }})({node}.textContent.trim())"
        )
        chromium.press("n")
        said = "document.getElementById('waiting')"
        chromium.wait(f"{said}.textContent.includes('cannot be unpacked')")
        assert not chromium.value(f"{said}.hidden") and not chromium.value(READOUT)
    chromium.press("n")  # the first again, which is whole
    chromium.wait(f"{READOUT} != ''")
    assert chromium.value(f"{said}.hidden")
    _clean(chromium)


@pytest.mark.slow
@BROWSER
def test_a_click_holds_the_patch(chromium, page):
    stage = _open(chromium, page)
    there, elsewhere = _over(stage, 0, 3), _over(stage, 3, 0)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        chromium.mouse(kind, *there)
    chromium.mouse("mouseMoved", *elsewhere)
    assert "row 1, column 4 in" in chromium.value(READOUT)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased") * 2:
        chromium.mouse(kind, *elsewhere)  # held there, then let go
    chromium.mouse("mouseMoved", *there)
    assert "row 1, column 4 in" in chromium.value(READOUT)


@pytest.mark.slow
@BROWSER
def test_a_phone_shows_all_of_it_and_takes_taps(chromium, page, tmp_path):
    stage = _open(chromium, page, width=390, height=844, phone=True)
    assert chromium.value("document.documentElement.scrollWidth") <= 390
    assert 340 <= stage[2] <= 390
    chromium.tap(*_over(stage, 1, 0))
    assert "row 2, column 1 in" in chromium.value(READOUT)
    small = chromium.value(
        "[...document.querySelectorAll('button')].filter(b => b.clientHeight < 34).length"
    )
    assert small == 0, "every button is large enough for a finger"
    chromium.screenshot(tmp_path / "phone.png")
    _clean(chromium)


@pytest.mark.slow
@BROWSER
def test_dark_is_dark_and_light_is_light(chromium, page):
    ink = {}
    for dark in (False, True):
        _open(chromium, page, dark=dark)
        script = "getComputedStyle(document.body)[{}].match(/\\d+/g).map(Number)"
        ink[dark] = [
            sum(chromium.value(script.replace("{}", f"'{name}'")))
            for name in ("color", "backgroundColor")
        ]
        _clean(chromium)
    assert ink[False][0] + 400 < ink[False][1], "dark words on light ground"
    assert ink[True][1] + 400 < ink[True][0], "and the other way round"


# The command ---------------------------------------------------------------------


def test_the_command_writes_and_serves_a_page(tmp_path, evaluated, data_dir):
    process = warm.start(
        "-m",
        "tools.explore",
        f"--checkpoint={evaluated}",
        "--images=digits",
        f"--data_dir={data_dir}",
        "--max_images=2",
        f"--to={tmp_path / 'deep' / 'page'}",
        "--serve",
        "--port=0",
    )
    said, end = process._outputs[0], time.monotonic() + 240
    while "until Ctrl-C" not in (text := said.read_text() if said.exists() else ""):
        assert process.poll() is None and time.monotonic() < end, process.communicate(1)
        time.sleep(0.1)
    address = re.search(r"http://(127\.0\.0\.1:\d+)/", text)[1]
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/")
    got = connection.getresponse().read()
    connection.close()
    process.send_signal(signal.SIGINT)
    process.communicate(60)
    assert process.returncode == 0, "Ctrl-C is how it ends"
    written = (tmp_path / "deep" / "page" / "index.html").read_bytes()
    assert got == written
    assert f"index.html: 2 images, {len(written) / 1e6:.1f} MB" in text
    assert tiny.result(evaluated)["class_names"][0] == "0"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--checkpoint is missing"),
        (["--checkpoint=x"], "--images is missing"),
        (
            ["--checkpoint=x", "--images=y", "--blocks=1,a"],
            "--blocks=1,a: need whole numbers",
        ),
        (["--checkpoint=x.npz", "--images=y"], "x.npz: no such file"),
    ],
)
def test_mistakes_are_one_line(flags, said):
    done = warm.run("-m", "tools.explore", *flags)
    assert done.returncode == 2 and said in done.stderr
    assert done.stderr.strip().count("\n") == 0
