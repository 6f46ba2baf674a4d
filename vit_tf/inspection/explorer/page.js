// Attention of a few images, from what is packed in this page; nothing is fetched.
const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const [blocks, heads, tokens, side, first] =
  [data.blocks.length, data.heads, data.tokens, data.grid, data.first];
const ROLLOUT = blocks, MEAN = -1;
const VIEWS = ['heat', 'light', 'image'];
const OUTPUT = data.output;
function bytesOf(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}
const palette = bytesOf(data.palette);
const similarity = data.similarity && bytesOf(data.similarity);

const state = {
  image: 0, layer: blocks - 1, head: MEAN, patch: Math.floor((side * side + side) / 2),
  output: false, view: 'heat', held: false,
};
let packed = null;  // {scales, weights} of the image that is shown
const unpacked = new Map();
const stage = byId('stage'), pen = stage.getContext('2d');

// Numbers -----------------------------------------------------------------------

// float32 scales, a row each, then the rows as bytes: weight = (byte / 255)^2 * scale.
async function unpack(index) {
  if (!unpacked.has(index)) {
    const zipped = bytesOf(byId(`packed-${index}`).textContent.trim());
    const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream('gzip'));
    const buffer = await new Response(stream).arrayBuffer();
    const rows = (blocks * heads + 1) * tokens;
    if (buffer.byteLength !== rows * (4 + tokens)) throw new RangeError('cut off');
    unpacked.set(index, {
      scales: new Float32Array(buffer, 0, rows),
      weights: new Uint8Array(buffer, 4 * rows),
    });
  }
  return unpacked.get(index);
}

const squares = Float32Array.from({length: 256}, (_, byte) => (byte / 255) ** 2);

function addRow(sum, map, query, share) {
  const row = map * tokens + query, scale = packed.scales[row] * share;
  for (let k = 0; k < tokens; k++) sum[k] += squares[packed.weights[row * tokens + k]] * scale;
}

// What one query, or the output, takes from each token: tokens numbers.
function attention(layer, head) {
  const sum = new Float32Array(tokens);
  const maps = layer === ROLLOUT ? [blocks * heads]
    : head === MEAN ? Array.from({length: heads}, (_, h) => layer * heads + h)
    : [layer * heads + head];
  const queries = !state.output ? [first + state.patch]
    : first ? [0] : Array.from({length: tokens}, (_, q) => q);
  for (const map of maps) {
    for (const query of queries) addRow(sum, map, query, 1 / (maps.length * queries.length));
  }
  return sum;
}

const onPatches = (weights) => weights.subarray(first);
const largest = (values) => values.reduce((a, b) => Math.max(a, b), 1e-12);
const percent = (x) => x >= 0.0995 ? `${(100 * x).toFixed(0)} %`
  : x >= 0.00995 ? `${(100 * x).toFixed(1)} %` : `${(100 * x).toFixed(2)} %`;
const place = (p) => `row ${Math.floor(p / side) + 1}, column ${p % side + 1}`;
const colour = (x) => {
  const i = 3 * Math.max(0, Math.min(255, Math.round(255 * x)));
  return [palette[i], palette[i + 1], palette[i + 2]];
};

// Drawing -----------------------------------------------------------------------

function paint(canvas, values, low, high) {
  canvas.width = canvas.height = side;
  const context = canvas.getContext('2d'), picture = context.createImageData(side, side);
  for (let p = 0; p < side * side; p++) {
    picture.data.set([...colour((values[p] - low) / (high - low)), 255], 4 * p);
  }
  context.putImageData(picture, 0, 0);
}

function drawStage(values) {
  const size = Math.max(1, Math.round(stage.clientWidth * devicePixelRatio));
  if (stage.width !== size) stage.width = stage.height = size;
  const picture = pictures[state.image], cell = size / side, most = largest(values);
  pen.imageSmoothingEnabled = data.size >= 96;
  if (picture.complete && picture.naturalWidth) pen.drawImage(picture, 0, 0, size, size);
  if (state.view !== 'image') {
    for (let p = 0; p < side * side; p++) {
      const x = Math.round((p % side) * cell), y = Math.round(Math.floor(p / side) * cell);
      const right = Math.round((p % side + 1) * cell), below = Math.round((Math.floor(p / side) + 1) * cell);
      const share = values[p] / most;
      pen.fillStyle = state.view === 'heat' ? `rgba(${colour(share).join()},${0.3 + 0.5 * share})`
        : `rgba(0,0,0,${(1 - share) * 0.93})`;
      pen.fillRect(x, y, right - x, below - y);
    }
  }
  if (!state.output) {
    const x = (state.patch % side) * cell, y = Math.floor(state.patch / side) * cell;
    const thin = Math.max(1.5, size / 260);
    for (const [width, ink] of [[3 * thin, '#000'], [1.4 * thin, state.held ? '#e69f00' : '#fff']]) {
      pen.lineWidth = width;
      pen.strokeStyle = ink;
      pen.strokeRect(x, y, cell, cell);
    }
  }
}

function say(values, weights) {
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]);
  const who = state.output ? OUTPUT : `The patch at ${place(state.patch)}`;
  const where = state.layer === ROLLOUT ? 'over all layers'
    : `in layer ${data.blocks[state.layer] + 1}, ${state.head === MEAN ? 'mean of heads' : `head ${state.head + 1}`}`;
  const words = [`${who[0].toUpperCase()}${who.slice(1)} ${where}: takes most (${percent(values[order[0]])}) from ${place(order[0])}`];
  if (!state.output) words.push(`${percent(values[state.patch])} from itself`);
  if (first) words.push(`${percent(weights[0])} from the class token`);
  byId('readout').textContent = `${words.join(', ')}.`;
  byId('most').textContent = percent(values[order[0]]);
}

function mark(group, chosen) {
  [...byId(group).children].forEach((button, i) => {
    button.setAttribute('aria-checked', i === chosen);
    button.tabIndex = i === chosen ? 0 : -1;
  });
}

function draw() {
  if (!packed) return;
  const weights = attention(state.layer, state.head), values = onPatches(weights);
  drawStage(values);
  say(values, weights);
  [...byId('layers').children].forEach((button, layer) => {
    const seen = onPatches(attention(layer, MEAN));
    paint(button.firstChild, seen, 0, largest(seen));
  });
  const rollout = state.layer === ROLLOUT;
  byId('heads').style.visibility = rollout ? 'hidden' : '';  // nothing below it moves
  byId('heads-title').textContent = rollout ? 'Heads: the rollout is their mean'
    : `Heads of layer ${data.blocks[state.layer] + 1}`;
  if (!rollout) {
    [...byId('heads').children].forEach((button, i) => {
      const seen = onPatches(attention(state.layer, i - 1));
      paint(button.firstChild, seen, 0, largest(seen));
    });
  }
  mark('strip', state.image);
  mark('layers', state.layer);
  mark('heads', state.head + 1);
  byId('from-patch').setAttribute('aria-pressed', !state.output);
  byId('from-output').setAttribute('aria-pressed', state.output);
  for (const view of VIEWS) byId(`as-${view}`).setAttribute('aria-pressed', state.view === view);
  if (similarity) {
    const all = side * side;
    const row = similarity.subarray(state.patch * all, (state.patch + 1) * all);
    paint(byId('position'), row, 0, 255);
  }
}

let asked = false;
function redraw() {  // once a frame, however often the pointer moves
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; draw(); });
}

// Choosing ----------------------------------------------------------------------

function set(changes) {
  Object.assign(state, changes);
  redraw();
}

function wait(words) {
  byId('waiting').hidden = !words;
  byId('waiting').textContent = words;
}

// Nothing of the image before stays beside the name of one that cannot be shown.
function clear() {
  for (const canvas of document.querySelectorAll('#stage, .tiles canvas, #position')) {
    canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
  }
  byId('readout').textContent = byId('most').textContent = '';
}

async function showImage(index) {
  state.image = index;
  mark('strip', index);
  const about = data.images[index], list = byId('prediction');
  list.replaceChildren(...about.prediction.map(([name, share]) => {
    const item = document.createElement('li');
    item.innerHTML = '<div class="words"><span></span><span></span></div><div class="track"><div class="fill"></div></div>';
    item.querySelector('span').textContent = name;
    item.querySelectorAll('span')[1].textContent = percent(share);
    item.querySelector('.fill').style.width = `${100 * share}%`;
    return item;
  }));
  byId('which').textContent = about.name;
  stage.setAttribute('aria-label', `Patches of ${about.name}: arrow keys choose one`);
  byId('truth').textContent = about.prediction.length
    ? (about.label ? `It is: ${about.label}` : '') : 'This model tells no classes.';
  byId('strip').children[index].scrollIntoView({block: 'nearest', inline: 'nearest'});
  packed = null;
  wait(unpacked.has(index) ? '' : 'unpacking…');
  let found, problem = '';
  try {
    found = await unpack(index);
  } catch {
    problem = 'The attention of this image cannot be unpacked: the file is damaged, or this '
      + 'browser is too old for it. Write the page again, or update the browser.';
  }
  if (state.image !== index) return;  // another one was chosen meanwhile
  wait(problem);
  if (problem) return clear();
  packed = found;
  draw();
}

const around = (index, count) => (index + count) % count;
const within = (index, low, high) => Math.max(low, Math.min(high, index));

function move(rows, columns) {
  const row = within(Math.floor(state.patch / side) + rows, 0, side - 1);
  const column = within(state.patch % side + columns, 0, side - 1);
  set({patch: row * side + column, output: false, held: true});
}

const KEYS = {
  ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1),
  ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0),
  L: () => set({layer: around(state.layer - 1, blocks + 1)}),
  l: () => set({layer: around(state.layer + 1, blocks + 1)}),
  H: () => set({head: around(state.head, heads + 1) - 1}),
  h: () => set({head: around(state.head + 2, heads + 1) - 1}),
  r: () => set({layer: state.layer === ROLLOUT ? blocks - 1 : ROLLOUT}),
  o: () => set({output: !state.output}),
  v: () => set({view: VIEWS[around(VIEWS.indexOf(state.view) + 1, VIEWS.length)]}),
  n: () => showImage(around(state.image + 1, data.images.length)),
  p: () => showImage(around(state.image - 1, data.images.length)),
};

// The page's own keys stay the browser's: scrolling, and letters of other tools.
const isOurs = (event) => Boolean(KEYS[event.key]) && (event.key.startsWith('Arrow')
  ? event.target === stage : Boolean(event.target.closest?.('main, #strip')));

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  speak(true);
  if (event.key === 'Enter' && event.target === stage) return set({held: !state.held});
  // Arrows inside a group of tiles or images choose among them.
  const group = event.target.closest?.('[role="radiogroup"]');
  const step = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1}[event.key];
  if (group && step) {
    const all = [...group.children];
    const next = all[around(all.indexOf(event.target) + step, all.length)];
    next.focus();
    next.click();
  } else if (isOurs(event)) {
    KEYS[event.key]();
  } else {
    return;
  }
  event.preventDefault();
});

// What is read out follows keys and taps; under a mouse it would never end.
function speak(aloud) {
  byId('readout').setAttribute('aria-live', aloud ? 'polite' : 'off');
}

function patchUnder(event) {
  const box = stage.getBoundingClientRect();
  const at = (from, start, length) => within(Math.floor((from - start) / length * side), 0, side - 1);
  return at(event.clientY, box.top, box.height) * side + at(event.clientX, box.left, box.width);
}
stage.addEventListener('pointermove', (event) => {
  speak(false);
  if (state.held && event.pointerType === 'mouse') return;
  const patch = patchUnder(event);
  if (patch !== state.patch || state.output) set({patch, output: false});
});
stage.addEventListener('click', (event) => {
  const patch = patchUnder(event);
  set({held: !(state.held && patch === state.patch), patch, output: false});
});

// Building ----------------------------------------------------------------------

function tile(label, choose, contents) {
  const button = document.createElement('button');
  button.setAttribute('role', 'radio');
  button.append(contents);
  if (label) button.append(Object.assign(document.createElement('span'), {textContent: label}));
  button.addEventListener('click', choose);
  return button;
}

const pictures = data.images.map((about) => {
  const picture = new Image();
  picture.src = about.src;
  picture.alt = about.name;
  picture.title = about.name;
  picture.classList.toggle('small', data.size < 96);
  picture.addEventListener('load', redraw);
  return picture;
});
byId('strip').append(...pictures.map((picture, i) => tile('', () => showImage(i), picture)));
byId('layers').append(...[...data.blocks, 'rollout'].map((block, i) => tile(
  typeof block === 'number' ? `${block + 1}` : block, () => set({layer: i}),
  document.createElement('canvas'))));
byId('heads').append(...Array.from({length: heads + 1}, (_, i) => tile(
  i ? `${i}` : 'mean', () => set({head: i - 1}), document.createElement('canvas'))));
byId('name').textContent = data.name;
byId('about').textContent = data.about;
byId('size').textContent = data.footer;
byId('from-output').textContent = OUTPUT;
byId('from-patch').addEventListener('click', () => set({output: false}));
byId('from-output').addEventListener('click', () => set({output: true}));
for (const view of VIEWS) byId(`as-${view}`).addEventListener('click', () => set({view}));
byId('no-position').textContent = data.no_similarity;
byId('no-position').hidden = similarity;
byId('position').hidden = byId('position-scale').hidden = !similarity;
for (const id of ['bar', 'position-bar']) {
  const bar = byId(id).getContext('2d');
  for (let i = 0; i < 256; i++) {
    bar.fillStyle = `rgb(${colour(i / 255).join()})`;
    bar.fillRect(i, 0, 1, 1);
  }
}
new ResizeObserver(redraw).observe(stage);
showImage(0);
