from hypothesis import given
from hypothesis import strategies as st

from pipelines.records import Prediction, Question, Rationale, TrainingExample, Verdict, tables
from tests.pipelines.fixtures import prediction, question, rationale

texts = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=40)


@given(texts, st.lists(texts, max_size=5), texts)
def test_writing_and_reading_a_question_gives_it_back(text, options, stratum):
    made = question(text=text, options=tuple(options), stratum=stratum)
    (row,) = Question.table([made]).to_pylist()
    assert Question.from_dict(row) == made


def test_a_table_gives_back_its_records_in_order_none_included(tmp_path):
    predictions = [prediction("A"), prediction(None, error="timeout"), prediction("B")]
    tables.write(tmp_path, Prediction, predictions)
    assert tables.read(tmp_path, Prediction) == predictions


def test_equal_records_make_equal_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tables.write(tmp_path / name, Rationale, [rationale("text")])
    assert (tmp_path / "one/rationales.parquet").read_bytes() == (tmp_path / "two/rationales.parquet").read_bytes()


def test_every_record_has_a_schema_and_a_table_name_of_its_own():
    kinds = (Question, Rationale, Verdict, TrainingExample, Prediction)
    assert len({kind.stem for kind in kinds}) == len(kinds)
    assert len({str(kind.schema()) for kind in kinds}) == len(kinds)
    said = ["mistake", "letter", "read_as", "missing", "text_letter", "lenient_letter", "error"]
    assert [field.name for field in Prediction.schema() if field.nullable] == said
