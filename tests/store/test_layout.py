import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.store import layout
from si_dagster.store.errors import AddressError
from si_dagster.store.layout import Address

NAMES = st.from_regex(layout.NAME, fullmatch=True)
STAGES = NAMES.filter(lambda name: not name.startswith("iteration_"))
PROMPT_IDS = st.text(min_size=1).filter(lambda text: "\x00" not in text)


@st.composite
def addresses(draw) -> Address:
    model, task = draw(st.none() | NAMES), draw(st.none() | NAMES)
    part = draw(st.none() | NAMES) if model or task else None
    return Address(draw(NAMES), draw(st.none() | st.integers(0, 99)), draw(STAGES), model, task, part)


@settings(deadline=None)
@given(addresses())
def test_an_address_is_read_back_from_its_text_and_its_folder_lies_inside(address):
    assert Address.parse(address.artifact_id) == address
    home = layout.default_home()
    folder = layout.folder(home, address)
    assert folder.resolve().is_relative_to((home / "data").resolve())
    assert folder.relative_to(home / "data").as_posix() == address.artifact_id


@settings(deadline=None)
@given(NAMES, NAMES, NAMES, PROMPT_IDS, st.integers(0, 999))
def test_a_generation_id_is_read_back(study, model, task, prompt_id, sample_index):
    address = Address(study, 3, "generations", model, task)
    key = layout.parse_generation_id(layout.generation_id(address, prompt_id, sample_index))
    assert (key.address, key.prompt_id, key.sample_index) == (address, prompt_id, sample_index)


@pytest.mark.parametrize(
    "bad", ["..", ".", "", "a/b", "../a", "/etc", "a|b", ".superseded", "a\x00", "a b", "é", "a\n", "x" * 129]
)
@pytest.mark.parametrize("field", ["study", "stage", "model", "task", "part"])
def test_no_name_leaves_its_folder(field, bad):
    names = {"study": "a", "iteration": 0, "stage": "b", "model": "c", "task": "d", "part": "e", field: bad}
    with pytest.raises(AddressError, match=f"{field} name"):
        Address(**names)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/iteration_1",
        "a/iteration_01/b",
        "a/../b",
        "/a/b",
        "a/b/c/d/e",
        "a//b",
        "a/b/|",
        "a/b/c|d|e",
        "a/b/",
    ],
)
def test_a_text_that_is_no_artifact_id_is_refused(text):
    with pytest.raises(AddressError):
        Address.parse(text)


def test_a_stage_is_not_mistaken_for_an_iteration_and_a_part_needs_a_cell():
    with pytest.raises(AddressError, match="reads as an iteration"):
        Address("a", None, "iteration_1")
    with pytest.raises(AddressError, match="needs a model or a task"):
        Address("a", 0, "b", part="c")
    with pytest.raises(AddressError, match="from 0"):
        Address("a", -1, "b")


@pytest.mark.parametrize(
    "text", ["a/iteration_0/m|t/p", "a/0/m|t/p/0", "a/iteration_0/mt/p/0", "a/iteration_0/m|t/p/x"]
)
def test_a_text_that_is_no_generation_id_is_refused(text):
    with pytest.raises(AddressError):
        layout.parse_generation_id(text)


def test_the_home_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SI_DAGSTER_HOME", str(tmp_path))
    assert layout.default_home() == tmp_path
    monkeypatch.delenv("SI_DAGSTER_HOME")
    monkeypatch.chdir(tmp_path)
    assert layout.default_home() == tmp_path / ".si"
