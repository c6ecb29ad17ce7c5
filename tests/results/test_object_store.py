"""The store on a real object store, which fails."""

import pickle
import traceback

import pytest

from sparsevlr.results import Record, StorageError, Store, StudyMissing, open_study
from sparsevlr.results import lease as lease_module
from sparsevlr.results import location as location_module
from sparsevlr.results.coverage import FANOUT
from sparsevlr.results.location import locate, to_type, without_credentials

from ..conftest import ACCESS_KEY, SECRET_KEY, ObjectStore, some


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease_module, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(lease_module, "STALE_SECONDS", 1.0)


def failed(name: str) -> Record:
    return Record(event="failed", trial_id=name)


def ids(store: Store) -> list[str]:
    return [str(name) for name in store.read().events["trial_id"].to_pylist()]


def test_a_study_lives_there(object_store: ObjectStore) -> None:
    uri = object_store.uri("studies/first")
    with Store.create(uri, {"seed": 0}) as store, store.lead() as leading:
        for number in range(40):
            store.append(failed(f"t{number}"))
        leading.check()
        store.merge()
        store.location.write("checkpoints/t0/rung-0/state.json", b"{}")
        store.discard_checkpoint("checkpoints/t0")
    assert ids(Store.open(uri)) == [f"t{number}" for number in range(40)]
    assert open_study(uri).trials()["trial_id"].to_pylist() == [f"t{number}" for number in range(40)]
    names = {path.split("/studies/first/")[1].split("/")[0] for path in object_store.content()}
    assert names == {"study.json", "parts", "fences"}
    assert len(store.location.files("parts")) < 40


def test_faults_lose_and_double_nothing(object_store: ObjectStore) -> None:
    uri = object_store.uri("study")
    with object_store.faults(some(0.1, ("500", "503", "lost"), seed=2)):
        with Store.create(uri, {"seed": 0}) as store, store.lead():
            for number in range(12):
                store.append([failed(f"a{number}"), failed(f"b{number}")])
        with Store.open(uri, readonly=False) as again, again.lead():
            again.append(failed("last"))
        events = ids(Store.open(uri))
    assert events == [f"{letter}{number}" for number in range(12) for letter in "ab"] + ["last"]
    assert set(object_store.hurt) == {"500", "503", "lost"}


def test_slow_answers_are_waited_for(object_store: ObjectStore) -> None:
    store = Store.create(object_store.uri("study"), {})
    calls = []

    def first(method: str, path: str) -> str | None:
        calls.append(path)
        return "slow" if len(calls) == 1 else None

    travelled = pickle.loads(pickle.dumps(store.location))
    for location in (store.location, travelled):
        calls.clear()
        with object_store.faults(first):
            location.write("parts/x", b"x")
        assert len(calls) == 3, "one upload: begun, sent, completed; nothing was tried again"


def test_an_outage_ends_an_append_and_the_same_one_succeeds_after_it(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location_module, "S3_ATTEMPTS", 2)
    store = Store.create(object_store.uri("study"), {})
    store.append(failed("a"))
    # The last request of an upload is done, and nobody hears of it.
    with (
        object_store.faults(lambda method, path: "lost"),
        pytest.raises(StorageError, match=r"cannot write to s3://.*injected; .* sparsevlr resume s3://"),
    ):
        store.append(failed("b"))
    store.append(failed("b"))
    store.append(failed("c"))
    events = ids(Store.open(object_store.uri("study")))
    assert list(dict.fromkeys(events)) == ["a", "b", "c"]
    assert open_study(object_store.uri("study")).trials()["trial_id"].to_pylist() == ["a", "b", "c"]


def test_no_access_is_said_at_once_and_credentials_never(
    object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    uri = object_store.uri("study", credentials=f"{ACCESS_KEY}:{SECRET_KEY}")
    store = Store.create(uri, {})
    store.append(failed("a"))
    with (
        object_store.faults(lambda method, path: "403"),
        pytest.raises(StorageError, match="ACCESS_DENIED") as denied,
    ):
        store.append(failed("b"))
    with object_store.faults(lambda method, path: "403"), pytest.raises(StorageError, match="ACCESS_DENIED"):
        Store.open(uri)
    assert object_store.hurt["403"] <= 3
    said = "".join(traceback.format_exception(denied.value)) + caplog.text + store.uri + repr(store.location.shown)
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert secret not in said
        assert not any(secret.encode() in data for data in object_store.content().values())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://KEY:abc/SECRET@bucket/studies", "s3://bucket/studies"),
        ("s3://KEY:ab@SECRET@bucket/x", "s3://bucket/x"),
        ("s3://KEY:ab?SECRET@bucket/x", "s3://bucket/x"),
        ("s3://KEY:SECRET", "s3://..."),
        (
            "s3://KEY:SECRET@bucket/x?endpoint_override=h%3A1&region=r&y=SECRET",
            "s3://bucket/x?endpoint_override=h%3A1&region=r",
        ),
        ("s3://bucket/x?endpoint_override=http://KEY%3ASECRET%40h", "s3://bucket/x"),
        ("s3://bucket/a@b?endpoint_override=localhost:9000", "s3://bucket/a@b"),
        ("hdfs://user@host:8020/a", "hdfs://host:8020/a"),
        ("hdfs://host:8020/a", "hdfs://host:8020/a"),
        ("studies/a@b?c", "studies/a@b?c"),
    ],
)
def test_what_is_shown_of_a_uri_is_never_a_key(uri: str, shown: str) -> None:
    assert to_type(uri) in (shown, f"{shown}?endpoint_override=localhost:9000")
    assert "SECRET" not in without_credentials(uri)
    said = ""
    try:
        locate(uri)
    except StorageError as error:
        said = "".join(traceback.format_exception(error))
    assert "SECRET" not in said


def test_a_uri_with_one_slash_is_no_folder() -> None:
    with pytest.raises(StorageError, match="begins with s3:/ and no second slash: write s3://") as refused:
        locate("s3:/KEY:SECRET@bucket/studies")
    assert "SECRET" not in str(refused.value)


def test_reading_tells_an_outage_from_a_corrupt_file(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location_module, "S3_ATTEMPTS", 2)
    store = Store.create(object_store.uri("study"), {})
    store.append(failed("a"))
    with (
        object_store.faults(lambda method, path: "500" if path.endswith(".parquet") else None),
        pytest.raises(StorageError, match="cannot read the study"),
    ):
        store.read()
    (name,) = (entry.name for entry in store.location.files("parts"))
    store.location.write(f"parts/{name}", b"PAR1")
    assert store.read().problems[0].startswith(f"parts/{name}: cut short or corrupt, skipped")


def test_reading_goes_on_when_a_file_is_merged_after_it_was_opened(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "_merge_in_background", lambda *_: None)
    uri = object_store.uri("study")
    reader, merged = Store.create(uri, {}), []

    def merging(method: str, path: str) -> None:
        if method == "GET" and path.endswith(".parquet") and not merged:
            merged.append(path)
            store.merge()

    with Store.open(uri, readonly=False) as store:
        for number in range(FANOUT):
            store.append(failed(f"t{number}"))
        with object_store.faults(merging):
            assert ids(reader) == [f"t{number}" for number in range(FANOUT)]
    assert merged
    assert merged[0].removeprefix("/") not in object_store.paths()


def test_a_bucket_that_is_not_there(object_store: ObjectStore) -> None:
    uri = object_store.uri("study").replace(object_store.bucket, "no-such-bucket")
    with pytest.raises(StorageError, match=r"cannot create a study at s3://no-such-bucket/study: .*NO_SUCH_BUCKET"):
        Store.create(uri, {})
    with pytest.raises(StudyMissing, match=r"no study at s3://no-such-bucket/study"):
        Store.open(uri)
