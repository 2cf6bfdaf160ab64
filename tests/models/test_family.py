"""Family files and references on a command line → the models to blend."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from eft_gguf.blend.equation import Blend
from eft_gguf.errors import CompatibilityError, EFTError, ModelFileError, OptionError
from eft_gguf.models.compatibility import require
from eft_gguf.models.family import (
    Family,
    Trait,
    family_from_references,
    load_family,
    parse_tuned,
    read_family,
)
from eft_gguf.models.metadata import GGUFMetadata, read_metadata
from eft_gguf.models.references import Reference
from tests.gguf_files import write_adapter, write_model

HEAD = 'base = "large.gguf"\nuntuned = "small.gguf"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with four models and an adapter in it."""
    for name in ("large", "small", "helpful", "cautious"):
        write_model(tmp_path / f"{name}.gguf")
    write_adapter(tmp_path / "lora.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(folder: Path, text: str) -> Family:
    (folder / "family.toml").write_text(text, encoding="utf-8")
    return load_family(folder / "family.toml")


# --- family files ---


def test_a_family_file(folder: Path) -> None:
    text = 'name = "Täst"\nctx = 512\n' + HEAD + '[tuned]\nhelpful = "helpful.gguf"\nstyle = "lora:lora.gguf"\n'
    assert load(folder, text) == Family(
        name="Täst",
        base=Reference("large.gguf", folder / "large.gguf"),
        untuned=Reference("small.gguf", folder / "small.gguf"),
        tuned=(
            Trait("helpful", Reference("helpful.gguf", folder / "helpful.gguf"), 1.0),
            Trait("style", Reference("lora:lora.gguf", folder / "lora.gguf", adapter=True), 1.0),
        ),
        ctx=512,
        path=folder / "family.toml",
    )


def test_weights_are_in_tables(folder: Path) -> None:
    text = HEAD + '[tuned.helpful]\nmodel = "helpful.gguf"\nweight = 0.7\n'
    text += '[tuned.cautious]\nmodel = "cautious.gguf"\nweight = 2\n'
    family = load(folder, text)
    assert [(trait.name, trait.weight) for trait in family.tuned] == [("helpful", 0.7), ("cautious", 2.0)]
    assert all(type(trait.weight) is float for trait in family.tuned)
    assert (family.name, family.ctx) == ("family", None)


def test_paths_start_at_the_file_not_at_the_current_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    family = load(folder, HEAD + '[tuned]\ntuned = "helpful.gguf"\n')
    assert family.tuned[0].model.path == folder / "helpful.gguf"


TUNED = '[tuned]\nt = "helpful.gguf"\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("name = 'x'\nname = 'y'\n", "is no TOML file", "base ="),
        ("base = large.gguf\n", "is no TOML file", "base ="),
        (HEAD + "colour = 1\n" + TUNED, "the key 'colour' is unknown", "name, base, untuned, tuned, ctx"),
        (HEAD, "the key 'tuned' is missing", "[tuned]"),
        ('base = "large.gguf"\n' + TUNED, "the key 'untuned' is missing", "[tuned]"),
        (HEAD.replace('"large.gguf"', "3") + TUNED, "the key 'base' is 3", "a path in quotes"),
        ("name = 3\n" + HEAD + TUNED, "the key 'name' is 3", "a text"),
        ("ctx = 1.5\n" + HEAD + TUNED, "the key 'ctx' is 1.5", "a whole number"),
        ("ctx = true\n" + HEAD + TUNED, "the key 'ctx' is True", "a whole number"),
        ("ctx = 0\n" + HEAD + TUNED, "ctx of family family is 0", "above 0"),
        (HEAD + 'tuned = "helpful.gguf"\n', "the key 'tuned' is 'helpful.gguf'", "a table of traits"),
        (HEAD + "[tuned]\n", "has no tuned model", "at least one"),
        (HEAD + "[tuned]\nt = 7\n", "the key 'tuned.t' is 7", "a path in quotes"),
        (
            HEAD + '[tuned.t]\nmodel = "helpful.gguf"\nscale = 2\n',
            "the key 'tuned.t.scale' is unknown",
            "tuned.t.weight",
        ),
        (HEAD + "[tuned.t]\nweight = 1.0\n", "the key 'tuned.t.model' is missing", "model ="),
        (
            HEAD + "[tuned.t]\nmodel = [3]\n",
            "the key 'tuned.t.model' is 3",
            "a path",
        ),
        (
            HEAD + '[tuned.t]\nmodel = "helpful.gguf"\nweight = "1"\n',
            "the key 'tuned.t.weight' is '1'",
            "a number",
        ),
        (
            HEAD + '[tuned.t]\nmodel = "helpful.gguf"\nweight = nan\n',
            "the weight of trait t is nan",
            "finite",
        ),
        (
            HEAD + '[tuned.t]\nmodel = "helpful.gguf"\nweight = -inf\n',
            "the weight of trait t is -inf",
            "finite",
        ),
        (HEAD + '[tuned]\n"a b" = "helpful.gguf"\n', "'a b' cannot name a trait", "letters"),
        (HEAD + '[tuned]\nbase = "helpful.gguf"\n', "'base' cannot name a trait", "not base"),
        (HEAD + '[tuned]\nt = "helpful.gguf"\nt = "cautious.gguf"\n', "is no TOML file", "base ="),
        (HEAD + '[tuned]\nt = "hf:owner"\n', "tuned.t: hf:owner names no file", "OWNER/REPO"),
        ('base = "lora:lora.gguf"\nuntuned = "small.gguf"\n' + TUNED, "base cannot be an adapter", "tuned"),
    ],
)
def test_wrong_family_files(folder: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        load(folder, text)
    assert caught.value.message.startswith(f"{folder / 'family.toml'}")
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def test_a_missing_model_is_named_with_its_key(folder: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        load(folder, HEAD + '[tuned.t]\nmodel = "none.gguf"\n')
    file, model = folder / "family.toml", folder / "none.gguf"
    assert caught.value.message == f"{file}: tuned.t.model: there is no file {model}"


def test_family_files_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "latin.toml").write_bytes(b'name = "\xe9"\n')
    for name, words in [
        ("none.toml", "no family file"),
        ("", "cannot read"),
        ("latin.toml", "is no TOML file"),
    ]:
        with pytest.raises(OptionError, match=words) as caught:
            load_family(folder / name)
        assert caught.value.hint
        assert "\n" not in caught.value.message

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", deny)
    with pytest.raises(OptionError, match="Permission denied"):
        load_family(folder / "family.toml")


# --- references ---


def test_a_single_tuned_model_is_called_tuned(folder: Path) -> None:
    for tuned in ("helpful.gguf", Path("helpful.gguf"), ["helpful.gguf"]):
        family = family_from_references("large.gguf", Path("small.gguf"), tuned)
        assert [(t.name, t.model.path, t.weight) for t in family.tuned] == [("tuned", Path("helpful.gguf"), 1.0)]
    assert (family.base.path, family.untuned.path) == (Path("large.gguf"), Path("small.gguf"))


def test_traits_with_names_and_weights(folder: Path) -> None:
    texts = ["helpful=helpful.gguf:0.7", "cautious=lora:lora.gguf:0.3"]
    mapping = {"helpful": "helpful.gguf:0.7", "cautious": "lora:lora.gguf:0.3"}
    for tuned in (texts, mapping):
        family = family_from_references("large.gguf", "small.gguf", tuned)
        assert [(t.name, t.model.path.name, t.model.adapter, t.weight) for t in family.tuned] == [
            ("helpful", "helpful.gguf", False, 0.7),
            ("cautious", "lora.gguf", True, 0.3),
        ]


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ([], "has no tuned model"),
        (["helpful.gguf", "c=cautious.gguf"], "helpful.gguf has no trait name"),
        (["a=helpful.gguf", "a=cautious.gguf"], "two tuned models are called 'a'"),
        (["helpful.gguf:nan"], "the weight of trait tuned is nan"),
        (["a=helpful.gguf:inf"], "the weight of trait a is inf"),
        (["a=helpful.gguf:-1"], "the weight of trait a is -1.0"),
        ({"untuned": "helpful.gguf"}, "'untuned' cannot name a trait"),
        ({"": "helpful.gguf"}, "'' cannot name a trait"),
    ],
)
def test_wrong_tuned_models(folder: Path, tuned: list[str] | dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        family_from_references("large.gguf", "small.gguf", tuned)
    assert message in caught.value.message
    assert caught.value.hint


def test_missing_models(folder: Path) -> None:
    for references in [
        ("none.gguf", "small.gguf", "helpful.gguf"),
        ("large.gguf", "small.gguf", "a=none.gguf:0.5"),
    ]:
        with pytest.raises(ModelFileError, match=r"there is no file none\.gguf"):
            family_from_references(*references)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("m.gguf", (None, "m.gguf", 1.0)),
        ("m.gguf:0.5", (None, "m.gguf", 0.5)),
        ("kind=m.gguf", ("kind", "m.gguf", 1.0)),
        ("kind=m.gguf:1e-1", ("kind", "m.gguf", 0.1)),
        ("lora:a.gguf", (None, "lora:a.gguf", 1.0)),
        ("lora:a.gguf:0.5", (None, "lora:a.gguf", 0.5)),
        ("kind=lora:a.gguf:-2", ("kind", "lora:a.gguf", -2.0)),
        ("lora:7", (None, "lora:7", 1.0)),
        ("m.gguf:half", (None, "m.gguf:half", 1.0)),
        ("dir/x=m.gguf", (None, "dir/x=m.gguf", 1.0)),
    ],
)
def test_parse_tuned_without_files(text: str, parsed: tuple[str | None, str, float]) -> None:
    assert parse_tuned(text) == parsed


@pytest.mark.parametrize("name", ["x=m.gguf", "m.gguf:2", "x=m.gguf:2", "q=4:0"])
def test_an_existing_path_wins(folder: Path, name: str) -> None:
    write_model(folder / name)
    assert parse_tuned(name) == (None, name, 1.0)
    assert parse_tuned(f"lora:{name}") == (None, f"lora:{name}", 1.0)
    assert parse_tuned(f"kind={name}:0.5") == ("kind", name, 0.5)
    family = family_from_references("large.gguf", "small.gguf", {"kind": name})
    assert family.tuned[0].model.path == Path(name)


# --- traits with an untuned model of their own ---


def test_a_trait_may_have_an_untuned_model_of_its_own(folder: Path) -> None:
    text = HEAD + (
        '[tuned]\nhelpful = "helpful.gguf"\n[tuned.kind]\nmodel = "cautious.gguf"\nuntuned = "large.gguf"\nweight = 2\n'
        '[tuned.style]\nmodel = "lora:lora.gguf"\nuntuned = "large.gguf"\n'
        '[tuned.same]\nmodel = "cautious.gguf"\nuntuned = "small.gguf"\n'
    )
    family = load(folder, text)
    # One untuned model that two traits were tuned from is one member, and the family's own needs no other.
    assert list(family.members) == ["base", "untuned", "helpful", "kind", "style", "same", "untuned.kind"]
    assert family.members["untuned.kind"].path == folder / "large.gguf"
    assert family.untuned_of == {
        "helpful": "untuned",
        "kind": "untuned.kind",
        "style": "untuned.kind",
        "same": "untuned",
    }
    blend = Blend(behaviour=0.5, traits={"style": 0.5, "same": 4})
    # base, untuned, helpful, kind, style, same, untuned.kind
    assert family.factors(blend) == (1, -2.5, 0.5, 1, 0.25, 2, -1.25)
    base, untuned, others = read_family(family)
    assert list(others) == ["helpful", "kind", "style", "same", "untuned.kind"]
    assert require(base, untuned, others, family.untuned_of) == []


def test_python_names_it_as_a_family_file_does(folder: Path) -> None:
    tuned = {
        "helpful": "helpful.gguf:0.5",
        "kind": {"model": "cautious.gguf", "untuned": Path("large.gguf"), "weight": 2},
    }
    family = family_from_references("large.gguf", "small.gguf", tuned)
    assert [(trait.name, trait.weight) for trait in family.tuned] == [("helpful", 0.5), ("kind", 2)]
    assert family.tuned[1].untuned == Reference("large.gguf", Path("large.gguf"))
    with pytest.raises(OptionError, match=r"'tuned.kind.untunned' is unknown"):
        family_from_references("large.gguf", "small.gguf", {"kind": {"model": "cautious.gguf", "untunned": "x.gguf"}})


def test_it_must_be_a_model_and_its_name_is_taken(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"the untuned model of kind cannot be an adapter: lora:lora.gguf"):
        load(folder, HEAD + '[tuned]\nkind = {model = "helpful.gguf", untuned = "lora:lora.gguf"}\n')
    with pytest.raises(OptionError, match=r"'untuned.kind' cannot name a trait"):
        Trait("untuned.kind", Reference("m", Path("m")))


# --- what the files say ---


def test_read_family_reads_each_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def record(path: Path) -> GGUFMetadata:
        read.append(path)
        return read_metadata(path)

    monkeypatch.setattr("eft_gguf.models.family.read_metadata", record)
    family = family_from_references("large.gguf", "small.gguf", {"same": "small.gguf", "style": "lora:lora.gguf"})
    base, untuned, tuned = read_family(family)
    assert [path.name for path in read] == ["large.gguf", "small.gguf", "lora.gguf"]
    assert (base.path.name, untuned.path.name) == ("large.gguf", "small.gguf")
    assert {name: found.path.name for name, found in tuned.items()} == {
        "same": "small.gguf",
        "style": "lora.gguf",
    }
    assert [finding.severity for finding in require(base, untuned, tuned)] == ["note"]  # "same" is untuned's own file


@pytest.mark.parametrize(
    ("tuned", "message", "hint"),
    [
        ("lora:helpful.gguf", "helpful.gguf is a model, not an adapter", "without 'lora:'"),
        ("lora.gguf", "lora.gguf is an adapter, not a model", "write lora:lora.gguf"),
    ],
)
def test_models_and_adapters_are_told_apart(folder: Path, tuned: str, message: str, hint: str) -> None:
    with pytest.raises(CompatibilityError) as caught:
        read_family(family_from_references("large.gguf", "small.gguf", tuned))
    assert (caught.value.message, caught.value.hint) == (
        message,
        f"give it {hint}" if "without" in hint else hint,
    )


def test_damage_is_found_before_loading(folder: Path) -> None:
    whole = (folder / "small.gguf").read_bytes()
    (folder / "small.gguf").write_bytes(whole[:-100])
    with pytest.raises(EFTError, match="is cut short"):
        read_family(family_from_references("large.gguf", "small.gguf", "helpful.gguf"))


def test_weights_are_finite_wherever_they_come_from(folder: Path) -> None:
    for weight in (math.nan, math.inf, -math.inf):
        with pytest.raises(OptionError, match="weight"):
            Trait("kind", Reference("m", Path("m")), weight)
