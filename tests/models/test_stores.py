"""References into the stores that people have: layouts as the programs write them, whole and broken."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.models.family import parse_tuned
from eft_gguf.models.metadata import read_metadata
from eft_gguf.models.references import resolve
from tests.gguf_files import write_adapter, write_model

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and nothing in the environment that leads elsewhere."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TRANSFORMERS_OFFLINE", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("eft_gguf.models.ollama.SERVICE", ())
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    monkeypatch.setattr(hub.HfApi, "list_repo_files", refuse)


def cached(home: Path, name: str, *, repo: str = "owner/repo", revision: str = "aaaa", main: bool = True) -> Path:
    """Put a model into the Hugging Face cache as huggingface_hub does: a blob, and a link from a snapshot to it."""
    folder = home / ".cache" / "huggingface" / "hub" / f"models--{repo.replace('/', '--')}"
    data = write_model(home / "a.gguf", name=f"{name} {revision}").read_bytes()
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link = folder / "snapshots" / revision / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return link


@pytest.mark.usefixtures("no_network")
class TestHuggingFaceCache:
    def test_a_file_by_name_and_by_quantization(self, home: Path) -> None:
        link = cached(home, "model-q4_k_m.gguf")
        cached(home, "model-q8_0.gguf")
        assert resolve("hf:owner/repo/model-q4_k_m.gguf").path == link
        assert resolve("hf:owner/repo:Q4_K_M").path == link
        assert resolve("lora:hf:owner/repo:q4_k_m@0.5").scale == 0.5

    def test_a_file_in_a_folder_of_the_repository(self, home: Path) -> None:
        link = cached(home, "Q4_K_M/model.gguf")
        assert resolve("hf:owner/repo/Q4_K_M/model.gguf").path == link

    def test_the_main_revision_comes_first(self, home: Path) -> None:
        new = cached(home, "model.gguf", revision="aaaa")
        cached(home, "model.gguf", revision="0000", main=False)
        assert resolve("hf:owner/repo/model.gguf").path == new

    def test_where_the_cache_is(self, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        link = cached(home, "model.gguf")
        (home / ".cache" / "huggingface").rename(tmp_path / "elsewhere")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
        found = tmp_path / "elsewhere" / link.relative_to(home / ".cache" / "huggingface")
        assert resolve("hf:owner/repo/model.gguf").path == found
        monkeypatch.setenv("HF_HOME", "/nowhere")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere" / "hub"))
        assert resolve("hf:owner/repo/model.gguf").path == found

    def test_like_names_are_told_apart(self, home: Path) -> None:
        cached(home, "m-IQ4_XS.gguf")
        cached(home, "m-Q4_K_S.gguf")
        cached(home, "mmproj-m-Q8_0.gguf")
        good = cached(home, "m-Q8_0.gguf")
        assert resolve("hf:owner/repo:Q8_0").path == good
        cached(home, "m-UD-Q8_0.gguf")
        with pytest.raises(OptionError, match=r"2 files that fit: m-Q8_0\.gguf, m-UD-Q8_0\.gguf") as caught:
            resolve("hf:owner/repo:Q8_0")
        assert "OWNER/REPO/FILE.gguf" in caught.value.hint

    @pytest.mark.parametrize("name", ["hf:owner/repo/model.gguf", "hf:owner/repo:Q4_K_M"])
    def test_offline_nothing_is_fetched(self, home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ModelFileError, match="not on this disk, and HF_HUB_OFFLINE is set"):
            resolve(name)
        half = home / ".cache/huggingface/hub/models--owner--repo/blobs/abc.incomplete"
        half.parent.mkdir(parents=True)
        half.write_bytes(bytes(3_000_000))
        with pytest.raises(ModelFileError, match="broken off after 3 MB"):
            resolve(name)

    def test_a_link_whose_blob_is_gone(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cached(home, "model.gguf").resolve().unlink()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ModelFileError, match="not on this disk"):
            resolve("hf:owner/repo/model.gguf")

    def test_a_link_that_leads_out(self, home: Path) -> None:
        link = cached(home, "model.gguf")
        outside = write_model(home / "outside.gguf")
        link.unlink()
        link.symlink_to(outside)
        with pytest.raises(ModelFileError, match="leads out of"):
            resolve("hf:owner/repo/model.gguf")

    @pytest.mark.parametrize(
        "name",
        [
            "owner",
            "owner/..",
            "../repo/x.gguf",
            "owner/repo/../../x.gguf",
            "owner/repo",
            "/etc/passwd/x.gguf",
            "a/b\\c:d",
        ],
    )
    def test_names_that_are_none(self, home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises((OptionError, ModelFileError)) as caught:
            resolve(f"hf:{name}")
        assert caught.value.hint


class FakeHub:
    """Repositories of a hub that is not there: it puts files into the cache, and notes what was asked for."""

    def __init__(self, home: Path, *names: str) -> None:
        self.home, self.names, self.fetched = home, names, list[str]()

    def list_repo_files(self, repo: str) -> list[str]:
        if repo != "owner/repo":
            raise self.error("RepositoryNotFoundError")
        return [*self.names, "README.md"]

    def download(self, repo: str, name: str) -> str:
        if name not in self.list_repo_files(repo):
            raise self.error("EntryNotFoundError")
        self.fetched.append(name)
        return str(cached(self.home, name))

    @staticmethod
    def error(name: str) -> Exception:
        kind = getattr(hub.errors, name)
        error: Exception = kind.__new__(kind)
        return error


@pytest.fixture
def online(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeHub]:
    def make(*names: str) -> FakeHub:
        fake = FakeHub(home, *names)
        monkeypatch.setattr(hub, "hf_hub_download", fake.download)
        monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda self, repo: fake.list_repo_files(repo))
        return fake

    return make


class TestFetching:
    def test_what_is_missing_is_fetched_once(self, online: Callable[..., FakeHub]) -> None:
        fake = online("m-Q4_K_M.gguf", "m-Q8_0.gguf")
        first = resolve("hf:owner/repo:Q4_K_M")
        assert resolve("hf:owner/repo:Q4_K_M").path == first.path
        assert fake.fetched == ["m-Q4_K_M.gguf"]

    def test_all_parts_of_a_split_model(self, online: Callable[..., FakeHub], home: Path) -> None:
        names = [f"m-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
        fake = online(*names)
        first = resolve("hf:owner/repo:Q4_K_M").path
        assert fake.fetched == names and first.name == names[0]
        (first.parent / names[1]).unlink()
        resolve(f"hf:owner/repo/{names[0]}")
        assert fake.fetched == [*names, *names]

    def test_what_is_there_is_said(self, online: Callable[..., FakeHub]) -> None:
        online("m-Q4_K_M.gguf", "m-Q8_0.gguf")
        with pytest.raises(ModelFileError, match="no file at Q2_K") as caught:
            resolve("hf:owner/repo:Q2_K")
        assert caught.value.hint == "there are: Q4_K_M, Q8_0"
        with pytest.raises(ModelFileError, match=r"no file other\.gguf"):
            resolve("hf:owner/repo/other.gguf")
        with pytest.raises(ModelFileError, match=r"no repository owner/secret .* or it is private") as caught:
            resolve("hf:owner/secret:Q8_0")
        assert "hf auth login" in caught.value.hint

    def test_terms_that_were_not_accepted(
        self, online: Callable[..., FakeHub], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = online("m.gguf")

        def refuse(*_: object) -> str:
            raise fake.error("GatedRepoError")

        monkeypatch.setattr(hub, "hf_hub_download", refuse)
        with pytest.raises(ModelFileError, match="accepted its terms") as caught:
            resolve("hf:owner/repo/m.gguf")
        assert "https://huggingface.co/owner/repo" in caught.value.hint

    def test_a_network_that_is_not_there(self, online: Callable[..., FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
        """huggingface_hub then says that the file is not in the cache, by a kind of "no such file"."""
        fake = online("m.gguf")

        def refuse(*_: object) -> str:
            raise fake.error("LocalEntryNotFoundError")

        monkeypatch.setattr(hub, "hf_hub_download", refuse)
        with pytest.raises(ModelFileError, match="Hugging Face cannot be reached") as caught:
            resolve("hf:owner/repo/m.gguf")
        assert "goes on from there" in caught.value.hint

    def test_a_line_that_breaks(self, online: Callable[..., FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
        online("m.gguf")

        def broken(*_: object) -> str:
            raise ConnectionError("the peer has hung up\nand more")

        monkeypatch.setattr(hub, "hf_hub_download", broken)
        with pytest.raises(
            ModelFileError, match=r"^cannot fetch hf:owner/repo/m\.gguf: the peer has hung up\n"
        ) as caught:
            resolve("hf:owner/repo/m.gguf")
        assert "goes on from there" in caught.value.hint

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
        with pytest.raises(OptionError, match="needs huggingface_hub") as caught:
            resolve("hf:owner/repo/m.gguf")
        assert "eft-gguf[hub]" in caught.value.hint


def pulled(root: Path, name: str = "registry.ollama.ai/library/tiny/latest", *, adapter: bool = False) -> Path:
    """Put a model into Ollama's store; returns its blob."""
    layers = []
    for kind in ("model", "adapter")[: 1 + adapter]:
        path = root / "a.gguf"
        root.mkdir(parents=True, exist_ok=True)
        data = (write_adapter(path) if kind == "adapter" else write_model(path)).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        blob = root / "blobs" / f"sha256-{digest}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        media = f"application/vnd.ollama.image.{kind}"
        layers.append({"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)})
    manifest = root / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers.append({"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:0", "size": 1})
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


class TestOllama:
    @pytest.fixture
    def root(self, home: Path) -> Path:
        return home / ".ollama" / "models"

    @pytest.mark.parametrize(
        ("name", "place"),
        [
            ("tiny", "registry.ollama.ai/library/tiny/latest"),
            ("tiny:0.5b", "registry.ollama.ai/library/tiny/0.5b"),
            ("someone/tiny:7", "registry.ollama.ai/someone/tiny/7"),
            ("hf.co/owner/repo:Q4_K_M", "hf.co/owner/repo/Q4_K_M"),
        ],
    )
    def test_names(self, root: Path, name: str, place: str) -> None:
        blob = pulled(root, place)
        assert resolve(f"ollama:{name}").path == blob
        # A tag that is a number is no weight.
        assert parse_tuned(f"kind=ollama:{name}") == ("kind", f"ollama:{name}", 1.0)
        assert parse_tuned(f"kind=ollama:{name}:0.5") == ("kind", f"ollama:{name}", 0.5)

    def test_another_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        blob = pulled(tmp_path / "big-disk")
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "big-disk"))
        assert resolve("ollama:tiny").path == blob

    def test_an_adapter(self, root: Path) -> None:
        adapter = pulled(root, adapter=True)
        found = resolve("lora:ollama:tiny")
        assert found.path == adapter and found.adapter
        with pytest.raises(ModelFileError, match="ollama:tiny is a model with an adapter on it") as caught:
            resolve("ollama:tiny")
        assert "lora:ollama:tiny" in caught.value.hint

    @pytest.mark.parametrize(
        ("place", "name"),
        [
            ("registry.ollama.ai/library/qwen2.5/0.5b", "Qwen2.5:0.5B"),
            ("registry.ollama.ai/library/wizard-math/13b-q3_K_M", "wizard-math:13b-q3_k_m"),
            ("hf.co/bartowski/X-GGUF/Q4_K_M", "hf.co/bartowski/x-gguf:q4_k_m"),
        ],
    )
    def test_a_name_in_another_case(self, root: Path, place: str, name: str) -> None:
        blob = pulled(root, place)
        assert resolve(f"ollama:{name}").path == blob

    def test_of_two_names_that_differ_by_case_the_exact_one_is_meant(self, root: Path) -> None:
        pulled(root, "registry.ollama.ai/library/tiny/Q4_k")
        exact = root / "manifests/registry.ollama.ai/library/tiny/q4_K"
        exact.write_text("{}")
        with pytest.raises(ModelFileError, match="q4_K cannot be read"):
            resolve("ollama:tiny:q4_K")

    def test_a_missing_model(self, root: Path) -> None:
        with pytest.raises(ModelFileError, match="Ollama has no tiny:1b in") as caught:
            resolve("ollama:tiny:1b")
        assert caught.value.hint == "ollama pull tiny:1b"

    def test_a_missing_and_a_half_fetched_blob(self, root: Path) -> None:
        blob = pulled(root)
        blob.rename(blob.with_name(blob.name + "-partial"))
        with pytest.raises(ModelFileError, match="is half fetched") as caught:
            resolve("ollama:tiny")
        assert caught.value.hint == "ollama pull tiny"
        blob.with_name(blob.name + "-partial").unlink()
        with pytest.raises(ModelFileError, match="is not there"):
            resolve("ollama:tiny")

    def test_a_blob_cut_short(self, root: Path) -> None:
        blob = pulled(root)
        blob.write_bytes(blob.read_bytes()[:-1])
        with pytest.raises(ModelFileError, match="should have"):
            resolve("ollama:tiny")

    @pytest.mark.parametrize("text", ["", "[]", '{"layers": 3}', '{"layers": [{}]}'])
    def test_a_damaged_manifest(self, root: Path, text: str) -> None:
        pulled(root)
        (root / "manifests/registry.ollama.ai/library/tiny/latest").write_text(text)
        with pytest.raises(ModelFileError, match="cannot be read"):
            resolve("ollama:tiny")

    def test_a_digest_that_climbs(self, root: Path) -> None:
        pulled(root)
        manifest = root / "manifests/registry.ollama.ai/library/tiny/latest"
        layers = json.loads(manifest.read_text())
        layers["layers"][0]["digest"] = "sha256:../../../outside"
        manifest.write_text(json.dumps(layers))
        with pytest.raises(ModelFileError, match="no digest"):
            resolve("ollama:tiny")

    @pytest.mark.parametrize("name", ["../tiny", "a/b/c/d", "tiny:../x", "tiny:", "/tiny", ".tiny"])
    def test_names_that_are_none(self, root: Path, name: str) -> None:
        with pytest.raises((OptionError, ModelFileError)) as caught:
            resolve(f"ollama:{name}")
        assert caught.value.hint


class TestLMStudio:
    @pytest.fixture
    def file(self, home: Path) -> Path:
        path = home / ".lmstudio/models/publisher/repo/m-Q4_K_M.gguf"
        path.parent.mkdir(parents=True)
        return write_model(path)

    def test_names(self, file: Path) -> None:
        for name in ("publisher/repo/m-Q4_K_M.gguf", "publisher/repo:q4_k_m", "publisher/repo"):
            assert resolve(f"lmstudio:{name}").path == file

    def test_parts_and_projectors_with_odd_names(self, home: Path) -> None:
        folder = home / ".lmstudio/models/p/r"
        folder.mkdir(parents=True)
        names = [f"G.BF16-0000{number}-of-00002.gguf" for number in (1, 2)]
        for name in (*names, "G.BF16-mmproj.gguf"):
            write_model(folder / name, extra={"split.count": 2})
        assert resolve("lmstudio:p/r:BF16").path == folder / names[0]
        with pytest.raises(ModelFileError, match=r"is not the first part of its model") as caught:
            read_metadata(resolve(folder / names[1]).path)
        assert names[0] in caught.value.hint
        (folder / names[0]).rename(folder / "joined.gguf")
        with pytest.raises(ModelFileError, match="a part of a model in 2 files, but its name does not say which"):
            read_metadata(folder / "joined.gguf")

    def test_a_folder_of_the_users(self, file: Path, home: Path, tmp_path: Path) -> None:
        (home / ".lmstudio/models").rename(tmp_path / "models")
        (home / ".lmstudio/settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "models")}))
        assert resolve("lmstudio:publisher/repo").path == tmp_path / "models/publisher/repo/m-Q4_K_M.gguf"
        (home / ".lmstudio").rename(tmp_path / "other-home")
        (home / ".lmstudio-home-pointer").write_text(str(tmp_path / "other-home"))
        assert resolve("lmstudio:publisher/repo").path == tmp_path / "models/publisher/repo/m-Q4_K_M.gguf"

    def test_what_is_not_there(self, file: Path) -> None:
        with pytest.raises(ModelFileError, match="has no Q8_0") as caught:
            resolve("lmstudio:publisher/repo:Q8_0")
        assert caught.value.hint == "there are: Q4_K_M"
        with pytest.raises(ModelFileError, match="LM Studio has no publisher/other"):
            resolve("lmstudio:publisher/other")

    def test_half_fetched_and_broken(self, file: Path) -> None:
        file.rename(file.with_name("downloading_m-Q4_K_M.gguf.part"))
        with pytest.raises(ModelFileError, match="half fetched"):
            resolve("lmstudio:publisher/repo")
        file.symlink_to("/nowhere/m.gguf")
        with pytest.raises(ModelFileError, match="a link to a file that is gone"):
            resolve("lmstudio:publisher/repo")

    @pytest.mark.parametrize("name", ["../repo", "publisher/..", "publisher/repo/../../x.gguf", "publisher"])
    def test_names_that_climb(self, file: Path, name: str) -> None:
        with pytest.raises(OptionError, match="names no file"):
            resolve(f"lmstudio:{name}")
