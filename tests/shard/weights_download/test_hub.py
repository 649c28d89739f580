"""The hub's answers, with huggingface_hub's two calls replaced."""

import logging
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors
from text_generation_shard.weights import hub
from text_generation_shard.weights.hub import HubError, HubModel, HubUnreachableError, hub_token

from tests.shard.weights_download.checkpoints import write_bin, write_safetensors

COMMIT = "b" * 40


class FakeHub:
    """One repository on disk, handed out file by file into a cache directory."""

    def __init__(self, source, snapshot):
        self.source = source
        self.snapshot = snapshot
        self.downloads = []
        self.failures = {}
        self.listing_error = None
        self.extra_names = ()

    def model_info(self, model_id, *, revision, files_metadata):
        if self.listing_error:
            raise self.listing_error
        paths = [path for path in self.source.rglob("*") if path.is_file()]
        siblings = [
            SimpleNamespace(rfilename=str(path.relative_to(self.source)), size=path.stat().st_size)
            for path in paths
        ]
        siblings += [SimpleNamespace(rfilename=name, size=1) for name in self.extra_names]
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def hf_hub_download(self, model_id, name, *, revision, tqdm_class, **_):
        if self.failures.get(name):
            raise self.failures[name].pop()
        self.downloads.append((name, revision))
        data = (self.source / name).read_bytes()
        if tqdm_class is not None:
            with tqdm_class(desc=name, total=len(data), initial=0) as bar:
                bar.update(len(data))
                bar.update_transfer(len(data))
        (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (self.snapshot / name).write_bytes(data)
        return str(self.snapshot / name)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "source", tmp_path / "snapshots" / COMMIT)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda _, *a, **k: fake.model_info(*a, **k)
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setattr(hub, "_FIRST_BACKOFF_SECONDS", 0.001)
    return fake


def fetch(**options):
    model = HubModel(model_id="founders/tiny", **options)
    return hub.fetch(
        model, is_converted=lambda directory: (directory / "model.safetensors").exists()
    )


def http_error(kind, status):
    request = SimpleNamespace(method="GET", url="http://hub")
    return kind(
        "oops\nmore", response=SimpleNamespace(headers={}, status_code=status, request=request)
    )


def test_only_what_serving_needs_is_downloaded(fake, caplog):
    caplog.set_level(logging.INFO)
    write_safetensors(fake.source)
    write_bin(fake.source)
    for name in ("tokenizer.json", "merges.txt", "README.md", "weights.onnx", "sub/config.json"):
        (fake.source / name).parent.mkdir(exist_ok=True)
        (fake.source / name).write_text("x")
    directory = fetch(revision="v1")
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer.json",
    }
    assert fake.downloads[0] == ("config.json", "v1")
    assert {revision for _, revision in fake.downloads[1:]} == {COMMIT}
    reported = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert reported[-1]["bytes_done"] == reported[-1]["bytes_total"]
    assert all(fields["bytes_done"] <= fields["bytes_total"] for fields in reported)


def test_code_is_downloaded_only_where_it_is_trusted(fake):
    write_safetensors(fake.source)
    (fake.source / "modeling_tiny.py").write_text("x")
    assert not (fetch() / "modeling_tiny.py").exists()
    assert (fetch(with_code=True) / "modeling_tiny.py").is_file()


def test_pickles_only_where_there_is_nothing_better_and_not_converted_yet(fake):
    write_bin(fake.source)
    directory = fetch()
    assert (directory / "pytorch_model.bin").is_file()
    fake.downloads.clear()
    (directory / "model.safetensors").touch()
    fetch()
    assert ("pytorch_model.bin", COMMIT) not in fake.downloads


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        (errors.GatedRepoError, 403, "model founders/tiny (revision v1) is gated: accept"),
        (errors.RepositoryNotFoundError, 404, "model founders/tiny (revision v1) does not exist"),
        (errors.RevisionNotFoundError, 404, "model founders/tiny (revision v1): there is no such"),
        (
            errors.HfHubHTTPError,
            418,
            "model founders/tiny (revision v1): the hub answered 418: oops",
        ),
    ],
)
def test_a_refusal_is_one_line_that_names_model_and_revision(fake, kind, status, text):
    fake.listing_error = http_error(kind, status)
    with pytest.raises(HubError) as refused:
        fetch(revision="v1")
    assert not isinstance(refused.value, HubUnreachableError)
    assert str(refused.value).startswith(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "error",
    [
        http_error(errors.HfHubHTTPError, 503),
        errors.HTTPError("no route"),
        ConnectionError("no route"),
        errors.LocalEntryNotFoundError("no route"),
    ],
)
def test_no_answer_is_another_kind_of_error(fake, error):
    fake.listing_error = error
    with pytest.raises(
        HubUnreachableError, match=r"model founders/tiny \(revision main\): the hub"
    ):
        fetch()


def test_a_passing_failure_is_tried_again(fake, caplog):
    write_safetensors(fake.source)
    fake.failures["model.safetensors"] = [http_error(errors.HfHubHTTPError, 502) for _ in range(4)]
    assert (fetch() / "model.safetensors").is_file()
    assert caplog.text.count("try") >= 4


def test_a_lasting_failure_ends_the_download(fake):
    write_safetensors(fake.source)
    fake.failures["model.safetensors"] = [ConnectionError("cut") for _ in range(5)]
    with pytest.raises(HubUnreachableError, match="cannot be reached: cut"):
        fetch()


def test_a_full_disk_is_said_and_not_retried(fake):
    write_safetensors(fake.source)
    fake.failures["model.safetensors"] = [OSError(28, "No space left on device")]
    with pytest.raises(HubError, match=r"cannot be downloaded: .*No space left"):
        fetch()


def test_repositories_without_a_model(fake):
    fake.source.mkdir()
    (fake.source / "adapter_config.json").write_text("{}")
    with pytest.raises(HubError, match=r"has no config\.json: it is no model but an adapter"):
        fetch()
    (fake.source / "config.json").write_text("{}")
    with pytest.raises(HubError, match="has no weights"):
        fetch()
    index = '{"weight_map": {"a": "gone.safetensors"}}'
    (fake.source / "model.safetensors.index.json").write_text(index)
    with pytest.raises(HubError, match=r"index\.json names gone\.safetensors, which is not there"):
        fetch()


def test_a_repository_that_changes_meanwhile_is_noticed(fake):
    write_safetensors(fake.source)
    fake.snapshot = fake.snapshot.with_name("c" * 40)
    with pytest.raises(HubUnreachableError, match="changed while it was being downloaded"):
        fetch()


def test_a_name_that_cannot_be_one(tmp_path):
    with pytest.raises(HubError, match=r"^a/b/c is no name of a model"):
        hub.cached_directory(HubModel(model_id="a/b/c", cache_dir=tmp_path))


@pytest.mark.parametrize(
    ("environment", "token"),
    [
        ({}, None),
        ({"HF_TOKEN": " "}, None),
        ({"HF_TOKEN": "a", "HUGGING_FACE_HUB_TOKEN": "b"}, "a"),
        ({"HUGGING_FACE_HUB_TOKEN": "b"}, "b"),
        ({"HF_API_TOKEN": "c", "HF_TOKEN": "a"}, "c"),
    ],
)
def test_the_token_comes_from_the_environment(environment, token):
    assert hub_token(environment) == token
