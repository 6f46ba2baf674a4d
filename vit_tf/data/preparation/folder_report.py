"""What a person is told about a folder of images: before it is prepared, and after."""

import collections

from vit_tf.data import image_files, manifest
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_facts, image_folders

_SHOWN = 3  # classes or files of a kind


def print_listing(listing: image_folders.Listing) -> None:
    """Prints splits, classes, and what of the folder is left out, with the reason."""
    counts = ", ".join(
        f"{split} {len(files):,}" for split, files in listing.files.items()
    )
    print(f"{listing.folder}: {len(listing.class_names)} classes; images: {counts}")
    if listing.empty:
        print(f"No image at all of: {', '.join(listing.empty)} (left out)")
    if listing.ignored:
        print(
            f"Left out by name: {image_files.say(listing.ignored)}; read are "
            f"{', '.join(image_files.EXTENSIONS)} (convert others first)"
        )


def print_facts(chosen: image_folder.FolderConfig, skipped: str | None) -> None:
    """Prints what was prepared: classes, sizes, formats, and what looks wrong.

    Args:
        chosen: the set.
        skipped: the file that lists what was left out; None: nothing was.
    """
    listing = chosen.listing
    assert listing is not None
    for split, files in listing.files.items():
        print(f"  {split}: {_balance(files)}")
    facts = image_facts.collect(listing.folder, listing.paths)
    if facts is not None:
        formats = ", ".join(
            f"{n:,} {name}" for name, n in sorted(facts.formats.items())
        )
        print(
            f"  {formats}; width {_span(facts.widths)}, height {_span(facts.heights)} "
            "pixels (smallest, median, largest)"
        )
        if facts.turned:
            how = (
                "turned upright"
                if chosen.exif
                else "shown as stored; --exif turns them upright"
            )
            print(f"  {facts.turned:,} images carry a rotation (EXIF): {how}")
    if groups := manifest.repeated(chosen.entries):
        pairs = "; ".join(
            " = ".join(f"{entry.path} ({entry.split})" for entry in group[:2])
            for group in groups[:_SHOWN]
        )
        print(
            f"  {len(groups):,} images lie in more than one split, so that what is "
            f"measured was trained on: {pairs}"
        )
    if skipped is not None:
        print(f"  Skipped {len(chosen.skipped):,} damaged files, listed in {skipped}")


def _balance(files: list[tuple[str, str]]) -> str:
    counts = collections.Counter(name for _, name in files)
    fewest = min(counts, key=lambda name: (counts[name], name))
    most = max(counts, key=lambda name: (counts[name], name))
    return (
        f"{len(files):,} images of {len(counts):,} classes, from {counts[fewest]:,} "
        f"({fewest}) to {counts[most]:,} ({most})"
    )


def _span(numbers: tuple[int, int, int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
