"""Encoders of installed packages: found without an import, refused in their own name, harmless to all others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError, DependencyError
from ovbench.encoders import plugins
from ovbench.encoders.base import Encoder
from ovbench.encoders.plugins import register_encoder
from ovbench.encoders.registry import find_family, load_encoder, parse_encoder

GOOD = """
from ovbench import load_encoder
def build(source=None, *, width="96"):
    return load_encoder("clip/mini")
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_registered", "_modules", "_loaded"):
        monkeypatch.setattr(plugins, table, {})


def clip(source: str | None = None, **_options: str) -> Encoder:
    del source
    return load_encoder("clip/mini")


class Site:
    """A folder of installed packages, as pip leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, code: str, **entries: str) -> None:
        """Installs a package of one module with entry points `key="attribute"`."""
        module = name.replace("-", "_")
        (self.folder / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{key} = {module}:{attribute}" for key, attribute in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[ovbench.encoders]", *lines, ""]), encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


def ovbench(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site.folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "ovbench", *words],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_installed_encoder_is_found_by_its_entry_point(site: Site) -> None:
    site.install("vit-pack", GOOD, packed="build")
    assert find_family("packed").provider == "vit-pack 1.0"
    assert load_encoder("packed?width=3").info.name == "packed/default"
    with pytest.raises(ConfigError, match="unknown encoder 'pakced'") as caught:
        parse_encoder("pakced")
    assert "did you mean 'packed'" in caught.value.fix


def test_the_decorator_on_an_entry_points_function_gives_its_facts(site: Site) -> None:
    code = GOOD.replace("def build", "import ovbench\n@ovbench.register_encoder('packed', licence='MIT')\ndef build")
    site.install("vit-pack", code, packed="build")
    for _ in range(2):  # the second time it is in both tables
        family = find_family("packed")
        assert (family.provider, family.variants[0].licence) == ("vit-pack 1.0", "MIT")


def test_a_name_of_two_packages_is_refused_with_both_and_the_rest_works(site: Site) -> None:
    site.install("one", GOOD, packed="build", alone="build")
    site.install("two", GOOD, packed="build")
    with pytest.raises(ConfigError, match="'packed' is taken twice, by one 1.0 and by two 1.0"):
        parse_encoder("packed")
    assert parse_encoder("alone").name == "alone/default"
    assert parse_encoder("clip/mini").name == "clip/mini"


@pytest.mark.parametrize("name", ["clip", "openvision3"])
def test_a_package_that_shadows_a_built_in_is_refused_where_that_name_is_asked_for(site: Site, name: str) -> None:
    site.install("shadow", GOOD, **{name: "build"})
    with pytest.raises(ConfigError, match=f"'{name}' is taken twice, by ovbench and by shadow 1.0") as caught:
        parse_encoder(f"{name}/mini")
    assert "ovbench encoders --check" in caught.value.fix
    assert parse_encoder("ovis3/mini" if name == "openvision3" else "siglip/mini").family.provider == "ovbench"
    listed = ovbench(site, "encoders")
    assert listed.returncode == 0
    assert "of shadow 1.0; UNUSABLE, name taken twice: ovbench, shadow 1.0" in " ".join(listed.stdout.split())
    assert f"warning: '{name}': name taken twice: ovbench, shadow 1.0" in listed.stderr
    assert ovbench(site, "encoders", "--check").returncode == 2


def test_a_registered_name_and_a_package_of_the_same_name_are_refused_together(site: Site) -> None:
    site.install("vit-pack", GOOD, packed="build")
    register_encoder("packed")(clip)
    with pytest.raises(ConfigError, match=f"by {clip.__module__}.clip and by vit-pack 1.0"):
        find_family("packed")


def test_an_entry_with_a_name_that_cannot_be_asked_for_is_listed_as_such(site: Site) -> None:
    site.install("vit-pack", GOOD, MyViT="build")
    listed = ovbench(site, "encoders")
    assert "UNUSABLE, not a name: lower-case letters" in " ".join(listed.stdout.split())
    assert ovbench(site, "encoders", "--check").returncode == 2


BROKEN = "print('hello')\nimport a_library_that_is_not_there\n"


def test_a_broken_plugin_is_listed_and_hides_nothing(site: Site) -> None:
    site.install("broken-pack", BROKEN, broken="build")
    site.install("vit-pack", GOOD, packed="build")
    done = ovbench(site, "encoders")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello" not in done.stdout
    for text in ("of broken-pack 1.0", "of vit-pack 1.0", "clip/mini", "vae/flux"):
        assert text in done.stdout


def test_using_a_broken_plugin_is_an_error_without_a_traceback(site: Site) -> None:
    site.install("broken-pack", BROKEN, broken="build")
    done = ovbench(site, "encoders", "show", "broken")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "the plug-in 'broken' of broken-pack 1.0 cannot be imported: ModuleNotFoundError" in done.stderr
    assert "where: ovbench.encoders: broken = broken_pack:build" in done.stderr
    assert "ovbench encoders --check" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_prints_the_traceback_of_a_broken_plugin_and_ends_with_2(site: Site) -> None:
    site.install("broken-pack", BROKEN, broken="build")
    site.install("vit-pack", GOOD, packed="build")
    done = ovbench(site, "encoders", "--check")
    assert done.returncode == 2
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["broken", "broken-pack", "1.0", "broken"],
        ["packed", "vit-pack", "1.0", "ok"],
    ]
    assert "Traceback (most recent call last)" in done.stderr
    assert "No module named 'a_library_that_is_not_there'" in done.stderr
    rows = json.loads(ovbench(site, "encoders", "--check", "--json").stdout)
    assert [row["state"] for row in rows] == ["broken", "ok"]
    assert "Traceback" in rows[0]["detail"]


def test_check_of_sound_plugins_ends_well(site: Site) -> None:
    site.install("vit-pack", GOOD, packed="build")
    assert ovbench(site, "encoders", "--check").returncode == 0


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("build = 3", "is a int, neither a factory nor a Family"),
        ("build = None", "is None, neither a factory nor a Family"),
        ("raise SystemExit(1)", "cannot be imported: SystemExit: 1"),
        ("def other(source): ...", "cannot be imported: AttributeError"),
        ("def build(): ...", "the factory of 'packed' takes no source"),
    ],
)
def test_an_entry_that_is_no_adapter_is_refused(site: Site, code: str, text: str) -> None:
    site.install("vit-pack", code, packed="build")
    with pytest.raises((ConfigError, DependencyError), match=text):
        find_family("packed")


FAMILY = """
from ovbench import Family, Variant, load_encoder
ABOUT = dict(origin="embedded", licence="MIT", training_data="mine", objective="captioning", citation="none",
             resolution_px=64, num_tokens=64, dim=128)
def load(request):
    if request.variant.name == "nothing":
        return None
    return load_encoder("clip/mini")
FAMILY = Family(key="packed", title="Packed", load=load, options={"width": "of a block"}, variants=(
    Variant(name="tiny", title="tiny", protocol="mini", **ABOUT), Variant(name="nothing", title="nothing", **ABOUT)))
"""


def test_a_family_brings_its_variants_options_and_metadata(site: Site) -> None:
    site.install("vit-pack", FAMILY, packed="FAMILY")
    spec = parse_encoder("packed")
    assert (spec.name, spec.variant.training_data, spec.family.provider) == ("packed/tiny", "mine", "vit-pack 1.0")
    assert load_encoder("packed?width=3").info.dim == 128
    with pytest.raises(ConfigError, match="unknown variant of packed 'tinny'") as caught:
        parse_encoder("packed/tinny")
    assert "did you mean 'tiny'" in caught.value.fix
    with pytest.raises(ConfigError, match="unknown option of packed 'widht'"):
        parse_encoder("packed?widht=3")
    with pytest.raises(ConfigError, match="returned None, which is no Encoder"):
        load_encoder("packed/nothing")


def test_a_family_that_drops_an_option_is_refused(site: Site) -> None:
    site.install("vit-pack", FAMILY, packed="FAMILY")
    for option, name in (("size=32", "size"), ("weights=random:3", "weights"), ("layer=-2", "layer")):
        with pytest.raises(ConfigError, match=f"was given the option '{name}' and did not use it"):
            load_encoder(f"packed?{option}")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (FAMILY.replace('key="packed"', 'key="other"'), "the plug-in 'packed' of vit-pack 1.0 calls itself 'other'"),
        (
            FAMILY.split("FAMILY =")[0] + "FAMILY = Family(key='packed', title='', load=load, variants=())",
            "no variants",
        ),
        (FAMILY.replace('title="Packed"', "title='', aliases=('p',)"), "has aliases"),
    ],
)
def test_a_family_that_cannot_be_used_is_refused(site: Site, code: str, text: str) -> None:
    site.install("vit-pack", code, packed="FAMILY")
    with pytest.raises(ConfigError, match=text):
        find_family("packed")


def test_listing_is_not_held_up_by_a_slow_plugin(site: Site) -> None:
    site.install("slow-pack", "import time\ntime.sleep(60)\n", slow="build")
    assert "slow-pack 1.0" in ovbench(site, "encoders").stdout


def test_a_package_with_damaged_metadata_takes_nothing_away(site: Site) -> None:
    site.install("vit-pack", GOOD, packed="build")
    site.install("damaged-pack", GOOD, other="build")
    (site.folder / "damaged_pack-1.0.dist-info" / "entry_points.txt").write_text(
        "[ovbench.encoders]\nno value\n", encoding="utf-8"
    )
    assert find_family("packed").provider == "vit-pack 1.0"
    done = ovbench(site, "encoders")
    assert done.returncode == 0
    assert "of vit-pack 1.0" in done.stdout
    assert "the entry points of damaged-pack cannot be read" in done.stderr
