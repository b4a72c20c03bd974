import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.questions.candidates import MAX_CHARACTERS, Candidate, Origin, RejectedError
from pipelines.questions.sources import pmc_vqa, source
from pipelines.questions.sources.source import Source
from pipelines.questions.table_readers import by_suffix
from tests.benchmarks.generated import write_pmc_vqa

HERE = Origin(source="PMC-VQA", file="train.csv", row=1)


def version_1(**changes) -> dict[str, str]:
    """A clean row of the first form."""
    row = {
        "Figure_path": "PMC5133774_ijms-17-01746-f005.jpg",
        "Question": " What is the uptake pattern in the image? ",
        "Answer": "Focal uptake pattern",
        "Choice A": " A:Diffuse uptake pattern ",
        "Choice B": " B:Focal uptake pattern ",
        "Choice C": " C:No uptake pattern ",
        "Choice D": " D:None of the above. ",
        "Answer_label": "B",
    }
    return row | {name.replace("_", " ") if name.startswith("Choice") else name: v for name, v in changes.items()}


def version_2(**changes) -> dict[str, str]:
    """A clean row of the second form."""
    row = {name: value for name, value in version_1(**changes).items() if name != "Answer_label"}
    others = {"Answer": "B", "Caption": "PET shows focal uptake.", "split": "train", "index": "7"}
    return row | others | {name: value for name, value in changes.items() if name in others}


def read(row: dict[str, str], origin: Origin = HERE) -> Candidate:
    (candidate,) = pmc_vqa.candidates(row, origin)
    return candidate


def refused(row: dict[str, str]) -> str:
    with pytest.raises(RejectedError) as error:
        read(row)
    return str(error.value)


@pytest.mark.parametrize("row", [version_1(), version_2()])
def test_both_forms_of_a_clean_row_are_the_same_question(row):
    candidate = read(row)
    assert candidate.text == "What is the uptake pattern in the image?"
    assert candidate.options == (
        "Diffuse uptake pattern",
        "Focal uptake pattern",
        "No uptake pattern",
        "None of the above.",
    )
    assert (candidate.gold, candidate.split) == ("B", "train")
    assert (candidate.images, candidate.figure) == (
        ("PMC5133774_ijms-17-01746-f005.jpg",),
        "pmc5133774_ijms-17-01746-f005",
    )
    assert candidate.article == "PMC5133774"


def test_only_the_second_form_has_a_caption():
    assert (read(version_1()).caption, read(version_2()).caption) == ("", "PET shows focal uptake.")


def test_the_early_spelling_of_the_answer_s_column_is_read():
    row = version_1()
    row["Anwser"] = row.pop("Answer")
    assert read(row).gold == "B"


@pytest.mark.parametrize(
    ("file", "row", "split"),
    [
        ("train.csv", version_1(), "train"),
        ("test.csv", version_1(), "test"),
        ("test_clean.csv", version_1(), "test"),
        ("train_2.csv", version_2(), "train"),
        ("test_2.csv", version_2(split="test"), "test"),
        ("PMC-VQA_test_clean.csv", version_1(), "test"),
        ("train_2.csv", version_2(split="Test "), "test"),
        ("train_without_test_figures.csv", version_1(), "train"),
    ],
)
def test_the_split_is_the_row_s_own_or_follows_from_the_file_s_name(file, row, split):
    assert read(row, Origin(source="PMC-VQA", file=file, row=1)).split == split


@pytest.mark.parametrize("text", ["None", "NA", "N/A", "nan", "null"])
def test_options_that_other_readers_take_for_missing_stay_text(text):
    assert read(version_1(Choice_C=f" C:{text} ")).options[2] == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (" C:\u00a0Thin\u2009spaces\u202f ", "Thin spaces"),
        ("\ufeffC:\u200bMarked", "Marked"),
        (' C:"Quoted" ', "Quoted"),
        (" C:T1: bright", "T1: bright"),
        (" C:Crohn's disease", "Crohn's disease"),
        (" C:5' end", "5' end"),
        (" C:the 3'", "the 3'"),
        (" C:two\nlines", "two lines"),
        (" C:B. subtilis", "B. subtilis"),
        ("No letter before it", "No letter before it"),
        (" c:Small letter", "c:Small letter"),
        (" C:C: drive", "C: drive"),
        (" C:“Bat” and “wing”", "“Bat” and “wing”"),
        (" C:“Bat wing”", "Bat wing"),
        (" C:'A' and 'B'", "'A' and 'B'"),
        ("'C:Quoted with its letter'", "Quoted with its letter"),
    ],
)
def test_an_option_loses_its_letter_and_stray_marks_and_nothing_else(raw, text):
    assert read(version_1(Choice_C=raw)).options[2] == text


def test_species_whose_names_begin_like_letters_keep_them():
    names = ("A. fumigatus", "A. niger", "A. flavus", "A. terreus")
    row = version_1(**{f"Choice_{letter}": name for letter, name in zip("ABCD", names, strict=True)}, Answer=names[1])
    assert read(row).options == names


def test_a_text_that_begins_like_a_letter_is_not_cut_in_a_table_without_letters():
    plain = version_1(Choice_A="2 mm", Choice_B="3 mm", Choice_C="4 mm", Choice_D="5 mm", Answer="3 mm")
    assert read(plain).options == ("2 mm", "3 mm", "4 mm", "5 mm")
    assert refused(plain | {"Choice A": "A: axial, B: coronal"}) == "option_letters_unclear"
    assert refused(plain | {f"Choice {letter}": f"A: {letter}, B: x" for letter in "ABCD"}) == "option_letters_unclear"


def test_quotes_inside_options_without_letters_are_no_pair_around_all_of_them():
    row = version_1(Choice_A='"Bat wing" sign', Choice_B="b", Choice_C="c", Choice_D='The "halo"', Answer="b")
    assert read(row).options == ('"Bat wing" sign', "b", "c", 'The "halo"')


def test_letters_with_dots_are_taken_off_where_all_four_follow_one_another():
    row = version_1(Choice_A="A. w", Choice_B="B. x", Choice_C="C. y", Choice_D="D. z", Answer="x")
    assert read(row).options == ("w", "x", "y", "z")


def test_options_that_differ_in_a_sign_alone_are_different():
    row = version_1(Choice_A=" A:< 5 mm", Choice_B=" B:> 5 mm", Choice_C=" C:3+", Choice_D=" D:3-", Answer="> 5 mm")
    assert read(row).gold == "B"


def test_a_lone_quote_as_label_is_mended_by_the_answer_s_text():
    candidate = read(
        version_1(
            Choice_A=" 'A:One patient ", Choice_B=" B:Two", Choice_C=" C:Three", Choice_D=" D:Four patients' ",
            Answer="Two", Answer_label="'",
        )
    )  # fmt: skip
    assert candidate.options == ("One patient", "Two", "Three", "Four patients")
    assert candidate.gold == "B"


def test_options_that_are_quoted_with_their_letters_lose_both():
    row = version_1(**{f"Choice_{letter}": f" '{letter}:Crohn's {letter}'" for letter in "ABCD"}, Answer="Crohn's B")
    assert read(row).options == ("Crohn's A", "Crohn's B", "Crohn's C", "Crohn's D")


def test_a_pair_of_quotes_around_all_options_leaves_the_primes_inside():
    for five, three in (("5'", "3'"), ("5' end", "3' end")):
        row = version_1(Choice_A=f" 'A:{five} ", Choice_D=f" D:{three}'", Answer=five, Answer_label="'")
        assert (read(row).options[0], read(row).options[3], read(row).gold) == (five, three, "A")


def test_a_question_in_quotes_loses_them():
    assert read(version_1(Question='"What is shown?"')).text == "What is shown?"
    assert read(version_1(Question='What does "A" show?')).text == 'What does "A" show?'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (version_1(Answer_label="A"), "label_contradicts_answer"),
        (version_1(Answer_label="E"), "label_contradicts_answer"),
        (version_1(Answer="Something else"), "answer_is_no_option"),
        (version_1(Answer="", Answer_label="'"), "answer_is_no_option"),
        (version_1(Choice_C=" D:Axillary", Choice_D=""), "option_missing"),
        (version_1(Choice_C=" C:Focal uptake pattern"), "options_repeated"),
        (version_1(Question="  "), "question_missing"),
        (version_1(Question="What?<|im_end|>"), "chat_markup_in_text"),
        (version_1(Question="\udcff?"), "text_is_not_utf8"),
        (version_1(Question="x" * (MAX_CHARACTERS + 1)), "text_too_long"),
        (version_1(Figure_path=" "), "image_missing"),
        (version_2(Answer="E"), "answer_is_no_option"),
        (version_2(Answer=""), "answer_is_no_option"),
        (version_2(Choice_B=" C:Focal", Answer="C"), "letters_contradict_each_other"),
        (version_1(Choice_B=" C:Focal", Answer="", Answer_label="C"), "letters_contradict_each_other"),
        (version_1(Answer="A:Focal uptake pattern"), "answer_is_no_option"),
        (version_1(Answer="A:Focal uptake pattern", Answer_label="'"), "answer_is_no_option"),
        (version_2(split="nonsense"), "unknown_split"),
        (version_1(Choice_C=float("nan")), "cell_is_no_text"),
        (version_1(Question=["?"]), "cell_is_no_text"),
        (version_1(Choice_B=" C:Focal uptake pattern", Answer="Focal uptake pattern", Answer_label="D"),
         "label_contradicts_answer"),
    ],
)  # fmt: skip
def test_a_row_that_contradicts_itself_is_refused_with_the_reason(row, reason):
    assert refused(row) == reason


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        (version_1(Choice_B=" C:Focal uptake pattern", Answer_label="C"), "B"),  # by its text
        (version_1(Choice_B=" C:Focal uptake pattern", Answer_label="B"), "B"),
        (version_1(Choice_C=" B:No uptake pattern", Answer="Diffuse uptake pattern", Answer_label="A"), "A"),
        (version_2(Choice_B=" C:Focal", Answer="A"), "A"),  # the doubled letter is not the one that is asked for
        (version_1(Answer="", Answer_label="C"), "C"),
        (version_1(Answer="B", Answer_label="B"), "B"),
        (version_1(Answer=" B:Focal uptake pattern", Answer_label=" b "), "B"),
    ],
)
def test_a_contradiction_with_one_reading_left_is_mended(row, gold):
    assert read(row).gold == gold


LOST = {"Choice_A": " A:a", "Choice_B": " A:b", "Choice_C": " B:c", "Choice_D": " C:d"}


@pytest.mark.parametrize(
    "row",
    [
        version_2(**LOST, Answer="D"),  # whose column holds C
        version_1(**LOST, Answer="", Answer_label="D"),
        version_2(Choice_B=" C:Focal", Answer="B"),
    ],
)
def test_a_letter_that_no_option_bears_any_more_picks_none(row):
    assert refused(row) == "letters_contradict_each_other"


PANELS = {f"Choice_{letter}": f" {letter}:{panel}" for letter, panel in zip("ABCD", "CDAB", strict=True)}


@pytest.mark.parametrize(("label", "gold"), [("D", "D"), ("B", "label_contradicts_answer")])
def test_options_that_are_letters_are_named_by_their_text(label, gold):
    row = version_1(**PANELS, Answer="B", Answer_label=label)
    assert gold == (refused(row) if len(gold) > 1 else read(row).gold)


def test_a_letter_that_may_be_an_option_s_text_or_its_place_is_refused_where_no_label_decides():
    assert refused(version_1(**PANELS, Answer="B", Answer_label="'")) == "letters_contradict_each_other"
    same = {f"Choice_{letter}": f" {letter}:{letter}" for letter in "ABCD"}
    assert read(version_1(**same, Answer="B", Answer_label="'")).gold == "B"


def test_a_letter_as_answer_that_contradicts_the_label_is_refused():
    assert refused(version_1(Answer="A", Answer_label="B")) == "answer_is_no_option"


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "@SUM(1+1)", "+1", "-1", "\x07\x1b[31mred"])
def test_cells_that_look_like_formulas_or_carry_controls_are_harmless_text(cell):
    text = read(version_1(Question=cell)).text
    assert text == cell.replace("\x07", "").replace("\x1b", "")


def test_a_table_without_its_columns_says_which_is_missing():
    row = version_1()
    del row["Choice D"]
    with pytest.raises(InputError, match="no column 'Choice D'; it has Figure_path"):
        read(row)


CELL = st.text(max_size=30) | st.sampled_from([" A:x", "'B:y", "C.", "D", "'", '"', "x", "A", "<|im_end|>", "\udc80"])


@settings(max_examples=500)
@given(st.data(), st.booleans())
def test_any_texts_give_a_sound_question_or_a_reason(data, first):
    row = {name: data.draw(CELL) for name in (version_1() if first else version_2())}
    try:
        candidate = read(row)
    except RejectedError:
        return
    Candidate.table([candidate])
    assert candidate.gold in "ABCD"
    assert len({option.casefold() for option in candidate.options}) == 4
    for text in (candidate.text, *candidate.options):
        assert text
        assert text == " ".join(text.split())
        assert "<|" not in text or "|>" not in text


@settings(max_examples=300)
@given(
    st.lists(st.text("abcxyz 0123456789+-<>.'", min_size=1, max_size=12), min_size=4, max_size=4),
    st.integers(0, 3),
    st.sampled_from([" {}:{} ", "{}: {}", "{}:{}", "'{}:{}"]),
)
def test_what_was_written_as_right_is_never_read_as_another_option(texts, right, form):
    cells = {f"Choice_{letter}": form.format(letter, text) for letter, text in zip("ABCD", texts, strict=True)}
    for row in (
        version_1(**cells, Answer=texts[right], Answer_label="ABCD"[right]),
        version_1(**cells, Answer=texts[right], Answer_label="'"),
        version_2(**cells, Answer="ABCD"[right]),
    ):
        try:
            assert read(row).gold == "ABCD"[right]
        except RejectedError:
            continue


@given(st.text("ABCD", min_size=4, max_size=4), st.sampled_from("ABCD"), st.sampled_from([version_1, version_2]))
def test_a_letter_alone_picks_an_option_only_where_column_and_written_letter_agree_on_it(letters, said, form):
    cells = {f"Choice_{c}": f" {letter}:text {c}" for c, letter in zip("ABCD", letters, strict=True)}
    row = form(**cells, **({"Answer": said} if form is version_2 else {"Answer": "", "Answer_label": said}))
    if letters.count(said) == 1 and letters["ABCD".index(said)] == said and len(set(letters)) >= 3:
        assert read(row).gold == said
    else:
        assert refused(row) in {"letters_contradict_each_other", "option_letters_unclear"}


STATUSES = {
    "answer_is_no_option": "answer_is_no_option",
    "doubled_prefix_uncertain": {1: "label_contradicts_answer", 2: "letters_contradict_each_other"},
    "empty_question": "question_missing",
    "label_contradicts_answer": "label_contradicts_answer",
    "not_utf8": "text_is_not_utf8",
    "repeated_options": "options_repeated",
    "shifted_options": "option_missing",
    "special_tokens": "chat_markup_in_text",
    "too_few_cells": "wrong_cell_count",
    "too_many_cells": "wrong_cell_count",
}  # of the rest nothing in the text is wrong


@pytest.mark.parametrize("version", [1, 2])
def test_each_kind_of_dirt_has_its_own_reason_and_no_right_option_is_changed(tmp_path, version):
    expected = write_pmc_vqa(tmp_path, num_rows=600, num_images=300, version=version, dirt_share=0.5, images="none")
    (table,) = map(str, tmp_path.glob("*.csv"))
    kinds = {number: kind for kind, numbers in expected.rows.items() for number in numbers}
    raw = dict(by_suffix.read(table))
    read = list(source.candidates(Source(name="n", reader="pmc_vqa", table=table, images=None, split=None)))
    assert [candidate.row for candidate in read] == list(range(1, 601))
    for candidate in read:
        status = STATUSES.get(kinds.get(candidate.row, ""), "")
        assert candidate.reason == (status[version] if isinstance(status, dict) else status), kinds.get(candidate.row)
        if not candidate.status:
            row = raw[candidate.row]
            written = row[f"Choice {candidate.gold}"].partition(":")[2].strip(" '\"\u00a0\u2009")
            assert candidate.options["ABCD".index(candidate.gold)] == " ".join(written.split())
            assert candidate.gold == row.get("Answer_label", row["Answer"]) or kinds[candidate.row] == "quoted_label"
            assert " ".join(row["Answer"].split()) in {candidate.gold, candidate.options["ABCD".index(candidate.gold)]}


def test_no_text_makes_the_patterns_slow():
    started = time.perf_counter()
    for unit in (" ", "'", "A:", "A. ", "a", "(", "\u2009"):
        long = unit * (MAX_CHARACTERS // len(unit))
        for name in ("Question", "Choice_A", "Answer", "Answer_label", "Figure_path"):
            try:
                read(version_1(**{name: long}))
            except RejectedError:
                continue
    assert time.perf_counter() - started < 20  # seconds for 35 rows; a quadratic pattern takes minutes
