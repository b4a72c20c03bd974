from pipelines.inference.answers.lenient import lenient_letter as lenient_letter
from pipelines.inference.answers.reader import read as read, without_answer as without_answer
from pipelines.inference.answers.reading import How as How, Missing as Missing, Reading as Reading
