from pipelines.inference.answers.lenient import lenient_letter as lenient_letter
from pipelines.inference.answers.reader import read as read
from pipelines.inference.answers.reader import without_answer as without_answer
from pipelines.inference.answers.reading import How as How
from pipelines.inference.answers.reading import Missing as Missing
from pipelines.inference.answers.reading import Reading as Reading
