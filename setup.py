"""What pyproject.toml cannot say: one list of dependencies, and where commands go.

requirements.txt is that list, for a checkout and for the package; what stands behind
its line 'Tests and lint.' is the extra `dev`. `tools/` and `experiments/` go inside the
package, below `vit_tf/_commands/`: as top-level packages they would stand in the way of
other people's.
"""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
_TESTS = "# Tests and lint."
_NOT_CODE = ("experiments/results", "experiments/figures")


def requirements(name: str) -> tuple[list[str], list[str]]:
    """Reads a list of requirements: those before the tests' line, and those behind it."""
    before, _, after = (HERE / name).read_text(encoding="utf-8").partition(_TESTS)
    return _parsed(before), _parsed(after)


def _parsed(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def packages() -> dict[str, str]:
    """Returns every package of the wheel with its folder in the checkout."""
    found = {}
    for top in ("vit_tf", "tools", "experiments"):
        for folder in (HERE / top, *sorted((HERE / top).rglob("*"))):
            place = folder.relative_to(HERE).as_posix()
            if not folder.is_dir() or "__pycache__" in place:
                continue
            if place.startswith(_NOT_CODE):
                continue
            prefix = "" if top == "vit_tf" else "vit_tf._commands."
            found[prefix + place.replace("/", ".")] = place
    return found


def main() -> None:
    """Hands setuptools what pyproject.toml leaves open."""
    runtime, dev = requirements("requirements.txt")
    places = packages()

    setuptools.setup(
        packages=list(places),
        package_dir=places,
        package_data={
            "": ["*.html", "*.css", "*.js", "*.yaml", "*.config", "*.sh", "*.txt"]
        }
        | {"vit_tf": ["py.typed"]},
        install_requires=runtime,
        extras_require={
            "dev": dev,
            "serving": requirements("requirements-serving.txt")[0],
            "tpu": requirements("requirements-tpu-check.txt")[0],
        },
    )


if __name__ == "__main__":
    main()
