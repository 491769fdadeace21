"""What was set aside, on the page: listed with its size, restored or removed only when that is confirmed."""

from __future__ import annotations

import pytest

from checkpoint_core.recovery.repair import Choices
from checkpoint_core.recovery.replaced import set_aside_saves
from checkpoint_core.recovery.replaced_records import Replaced, read_replaced
from checkpoint_core.recovery.set_aside import Kept, SavedName, SetAside
from checkpoint_core.tab.page_names import NOTHING, page_name
from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.results import Asked, Confirmation
from checkpoint_core.training.status import TrainingStatus
from tests.world import RUN_NAME, World

RUN = page_name(RUN_NAME)


@pytest.fixture
def aside(world: World) -> Replaced:
    name = world.latest.name
    done = set_aside_saves(world.run, lambda: SetAside((Kept(SavedName(name, True, 4)),)))
    assert done is not None
    return done


def asked(presenter: TabPresenter, wanted: str) -> tuple[str, Confirmation | None]:
    return presenter.repairs.ask(RUN, NOTHING, wanted, "", Choices())


def test_the_disk_part_lists_it_with_its_size_and_both_buttons(world: World, aside: Replaced) -> None:
    html = TabPresenter(world.outputs).show(RUN, NOTHING, "").disk.view
    assert "Kept from being overwritten" in html
    assert f'data-ck-value="restore:{aside.id}"' in html
    assert f'data-ck-value="discard:{aside.id}"' in html


def test_it_comes_back_when_that_is_confirmed(world: World, aside: Replaced) -> None:
    presenter = TabPresenter(world.outputs)
    message, question = asked(presenter, f"restore:{aside.id}")
    assert question is not None
    assert question.asked is Asked.RESTORE
    assert "Restore epoch 4?" in message
    assert not world.latest.exists()

    result = presenter.answer(RUN, question)

    assert "Restored: epoch 4." in result.message
    assert world.latest.is_dir()
    assert "look again" not in result.message
    assert "Nothing was set aside under the name" in presenter.answer(RUN, question).message


def test_it_is_removed_when_that_is_confirmed(world: World, aside: Replaced) -> None:
    presenter = TabPresenter(world.outputs)
    _, question = asked(presenter, f"discard:{aside.id}")
    assert read_replaced(world.run) == (aside,)
    assert "Removed for good: epoch 4" in presenter.answer(RUN, question).message
    assert read_replaced(world.run) == ()


def test_while_it_trains_nothing_changes_place(
    world: World, aside: Replaced, monkeypatch: pytest.MonkeyPatch
) -> None:
    presenter = TabPresenter(world.outputs)
    questions = [asked(presenter, f"{what}:{aside.id}")[1] for what in ("restore", "discard")]
    monkeypatch.setattr(TrainingStatus, "is_running", property(lambda _: True))
    for question in questions:
        assert "This run is training." in presenter.answer(RUN, question).message
    assert read_replaced(world.run) == (aside,)


@pytest.mark.parametrize("wanted", ["restore:", "restore:../..", "discard:x"])
def test_a_name_that_is_not_there_asks_nothing(world: World, aside: Replaced, wanted: str) -> None:
    message, question = asked(TabPresenter(world.outputs), wanted)
    assert question is None
    assert "Nothing was set aside under the name" in message


def test_the_preview_says_what_a_start_would_set_aside(world: World) -> None:
    view = TabPresenter(world.outputs).show(RUN, page_name(world.state(2).name), "")
    assert "Kept in .replaced: epochs 3 to 4." in view.preview
    assert "Kept in .replaced: epochs 1 to 4." in view.options
    assert "it begins at epoch 1; what is there is kept in .replaced." in view.options
