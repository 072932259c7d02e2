"""The terminal browser: a table of rollouts and, beside or below it, the whole of one of them."""

from dataclasses import replace
from typing import ClassVar, Literal, TypeVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static

from star_exp.records import Rollout
from star_exp.show.index import Index, Selection, select
from star_exp.show.text import describe, fields, heading, one_line
from star_exp.store import StoreError

T = TypeVar("T")
PAGE = 1000  # rows in the table at once: more make it slow
WIDEST = {"problem": 18, "answer": 16, "gold": 16, "question": 72}  # characters in the table
HEADINGS = ("it", "phase", "problem", "", "answer", "gold", "cut", "hint", "question")


class Browser(App[StoreError]):
    """Returns None when it is left, or the error that ended it.

    selection: what to begin with.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #panes { layout: vertical; }
    .-wide #panes { layout: horizontal; }
    DataTable { height: 1fr; border: round $primary; }
    .-wide DataTable { width: 3fr; height: 100%; }
    #detail { height: 1fr; border: round $primary; padding: 0 1; }
    .-wide #detail { width: 2fr; height: 100%; }
    DataTable:focus, #detail:focus { border: round $accent; }
    Input { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "cycle_correct", "right/wrong"),
        Binding("left_square_bracket", "step_iteration(-1)", show=False),
        Binding("right_square_bracket,i", "step_iteration(1)", "iteration", key_display="[ ]"),
        Binding("p", "cycle_phase", "phase"),
        Binding("t", "follow", "follow", key_display="enter"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("escape", "leave", "all"),
        Binding("q", "quit", "quit"),
        Binding("less_than_sign", "turn_page(-1)", show=False),
        Binding("greater_than_sign", "turn_page(1)", "page", key_display="< >"),
    ]

    def __init__(self, index: Index, selection: Selection, title: str):
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (150, "-wide")]  # columns of the terminal
        self.index, self.selection, self.run_title = index, selection, title
        self.page = 0
        self.before: tuple[Selection, int, int] | None = None  # what was left to follow a problem

    def compose(self) -> ComposeResult:
        with Container(id="panes"):
            yield DataTable(cursor_type="row", zebra_stripes=True)
            with VerticalScroll(id="detail"):
                yield Static(id="text")
        yield Input(placeholder="a piece of a problem's id or question; enter filters by it")
        yield Footer()

    def on_mount(self) -> None:
        self.table.add_columns(*HEADINGS)
        self.refill()
        self.query_one("#detail").border_subtitle = "tab to scroll here"
        self.table.focus()

    @property
    def table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def show_selection(self, selection: Selection) -> None:
        """Shows other rollouts, from the first page on."""
        self.selection, self.page = selection, 0
        self.refill()

    def refill(self, cursor: int = 0) -> None:
        """Fills the table with a page of the selected rollouts, and puts the cursor on a row."""
        self.selected = select(self.index.table, self.selection)
        first = self.page * PAGE
        self.rows = self.selected.slice(first, PAGE).to_pylist()
        self.table.clear()
        self.table.add_rows(map(cells, self.rows))
        self.table.move_cursor(row=cursor)
        self.table.border_title = Text(f"{describe(self.selection)} in {self.run_title}")
        of = f"rows {first + 1:,}-{first + len(self.rows):,} of "
        part = of if len(self.rows) < len(self.selected) else ""
        self.table.border_subtitle = Text(f"{part}{len(self.selected):,} rollouts")
        self.show_detail(cursor)

    def show_detail(self, row: int) -> None:
        """Shows the whole of a rollout of this page; ends the browser if it can't be read."""
        pane, text = self.query_one("#detail"), self.query_one("#text", Static)
        if row >= len(self.rows):
            pane.border_title = ""
            text.update("no rollouts; escape goes back to all")
            return
        place = self.rows[row]
        try:
            rollout = self.index.rollout(place["shard"], place["row"])
        except StoreError as error:
            self.exit(error, return_code=1)
            return
        pane.border_title = Text(heading(rollout))
        text.update(detail(rollout))
        pane.scroll_home(animate=False)

    @on(DataTable.RowHighlighted)
    def _row_highlighted(self) -> None:
        self.show_detail(self.table.cursor_row)

    @on(DataTable.RowSelected)  # enter, or a click on the row under the cursor
    def action_follow(self) -> None:
        """All rollouts of the problem under the cursor, through the iterations."""
        row = self.table.cursor_row
        if self.selection.problem is None and row < len(self.rows):
            self.before = self.selection, self.page, row
            self.show_selection(Selection(problem=self.rows[row]["problem"]))

    def action_leave(self) -> None:
        """From the search line to the table, from a problem to where it was, from there to all."""
        line = self.query_one(Input)
        if line.display:
            line.display = False
            self.table.focus()
        elif self.before is not None:
            self.selection, self.page, row = self.before
            self.before = None
            self.refill(row)
        else:
            self.show_selection(Selection())

    def action_cycle_correct(self) -> None:
        following = {None: True, True: False, False: None}
        self.show_selection(replace(self.selection, correct=following[self.selection.correct]))

    def action_cycle_phase(self) -> None:
        phase = step(self.index.phases, self.selection.phase, 1)
        self.show_selection(replace(self.selection, phase=phase))

    def action_step_iteration(self, by: Literal[-1, 1]) -> None:
        chosen = self.selection.iterations
        now = chosen[-1 if by > 0 else 0] if chosen else None
        iteration = step(self.index.iterations, now, by)
        iterations = () if iteration is None else (iteration,)
        self.show_selection(replace(self.selection, iterations=iterations))

    def action_turn_page(self, by: Literal[-1, 1]) -> None:
        page = self.page + by
        if 0 <= page * PAGE < len(self.selected):
            self.page = page
            self.refill()

    def action_search(self) -> None:
        line = self.query_one(Input)
        line.display = True
        line.value = self.selection.text
        line.focus()

    @on(Input.Submitted)
    def _search(self, event: Input.Submitted) -> None:
        event.input.display = False
        self.table.focus()
        self.show_selection(replace(self.selection, text=event.value.strip()))


def step(values: list[T], now: T | None, by: Literal[-1, 1]) -> T | None:
    """The value after (or before) `now` in a round of all the values and None."""
    round_ = [None, *values]
    return round_[(round_.index(now) + by) % len(round_)]


def cells(row: dict) -> list[Text]:
    """A row of the index as a row of the table; texts, or "[4]" would be taken for markup."""
    short = {name: one_line(row[name] or "", wide) for name, wide in WIDEST.items()}
    return [
        Text(str(row["iteration"]), justify="right"),
        Text(row["phase"]),
        Text(short["problem"]),
        Text("✓", style="green") if row["correct"] else Text("✗", style="red"),
        Text(short["answer"] or ("-" if row["answer"] is None else "")),
        Text(short["gold"]),
        Text("cut" if row["truncated"] else ""),
        Text("hint" if row["hinted"] else ""),
        Text(short["question"]),
    ]


def detail(rollout: Rollout) -> Text:
    """The whole of a rollout, each text under its name, the long ones first on their own lines."""
    text = Text()
    for name, value in fields(rollout).items():
        text.append(name, style="bold")
        text.append(f"\n{value}\n\n" if "\n" in value or name == "rationale" else f"  {value}\n")
    return text
