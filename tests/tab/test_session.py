"""One page's place on the page: its events overlap, and the newest choice wins."""

from __future__ import annotations

import copy
import threading

from checkpoint_core.tab.presenter import RunView, TabPresenter
from checkpoint_core.tab.session import PageSession
from tests.tab.conftest import DAMAGED, EPOCH_1, EPOCH_2, GOOD


def seated(run: str = GOOD, selected: str = "") -> PageSession:
    session = PageSession()
    session.pick(run)
    session.selected = selected
    return session


def test_the_best_is_selected_where_nothing_was(presenter: TabPresenter) -> None:
    session = seated()
    view, before = session.look(presenter)

    assert before is None
    assert (view.run, session.selected) == (GOOD, view.selected)
    assert session.look(presenter) == (view, view)


def test_another_run_forgets_the_selection_and_the_same_keeps_it(presenter: TabPresenter) -> None:
    session = seated(selected=EPOCH_1)
    session.pick(GOOD)
    assert session.selected == EPOCH_1
    session.pick(DAMAGED)
    assert session.selected == ""


def test_a_late_refresh_keeps_what_was_chosen_since() -> None:
    session = seated(DAMAGED, EPOCH_2)

    assert session.keep([GOOD, DAMAGED], picked=GOOD) == DAMAGED
    assert session.selected == EPOCH_2


def test_a_run_that_is_gone_gives_way_to_the_pickers_then_to_the_first() -> None:
    assert seated("gone", EPOCH_2).keep([GOOD, DAMAGED], picked=DAMAGED) == DAMAGED
    assert seated("gone").keep([GOOD, DAMAGED], picked="gone") == GOOD
    assert seated("gone").keep([], picked="") == ""


def test_a_page_of_a_server_started_anew_keeps_the_run_it_shows() -> None:
    assert PageSession().keep([GOOD, DAMAGED], picked=DAMAGED) == DAMAGED


def test_each_page_gets_a_seat_of_its_own() -> None:
    session = seated(selected=EPOCH_1)
    other = copy.deepcopy(session)

    assert (other.run, other.selected) == ("", "")
    assert other.turn is not session.turn


def test_a_look_that_takes_long_is_over_before_the_next_choice_is_shown() -> None:
    began, go_on, order = threading.Event(), threading.Event(), []

    class SlowPresenter:
        def show(self, run: str, selected: str, sort: str, layout: str, choices: object) -> RunView:
            if not order:
                began.set()
                go_on.wait(30)
            order.append(selected)
            return RunView(run, "", "", selected=selected)

    session = seated(selected=EPOCH_1)

    def choose() -> None:
        with session.turn:
            session.selected = EPOCH_2
            session.look(SlowPresenter())  # type: ignore[arg-type]

    late = threading.Thread(target=lambda: session.look(SlowPresenter()))  # type: ignore[arg-type]
    late.start()
    began.wait(30)
    chosen = threading.Thread(target=choose)
    chosen.start()
    go_on.set()
    late.join(30)
    chosen.join(30)

    assert order == [EPOCH_1, EPOCH_2]
    assert session.shown is not None
    assert session.shown.selected == session.selected == EPOCH_2
