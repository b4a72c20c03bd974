"""Bad and good rationales by kind, in wordings of their own: what must be found, and what must be spared."""

import pytest

from pipelines.verification import checks
from pipelines.verification.config import VerifyConfig
from tests.pipelines.fixtures import question, rationale

CHEST = question(
    text="What abnormality is seen in this chest radiograph?",
    options=("Pleural effusion", "Pneumothorax", "Cardiomegaly", "No abnormality"),
    gold="B",
)
HEALTHY = question(text=CHEST.text, options=CHEST.options, gold="D")
MODALITY = question(
    text="Which imaging modality was used?",
    options=("Computed tomography (CT)", "Magnetic resonance imaging (MRI)", "Ultrasound", "X-ray"),
    gold="B",
)
ARROW = question(
    text="What does the arrow indicate?", options=("Tumor", "Blood vessel", "Lymph node", "Nerve"), gold="A"
)
COUNT = question(text="How many nodules are visible in the liver?", options=("1", "2", "3", "4"), gold="C")
SIDE = question(text="On which side is the lesion?", options=("Left", "Right", "Both sides", "Midline"), gold="B")
LEVEL = question(text="Which lobe is affected?", options=("Upper lobe", "Middle lobe", "Lower lobe"), gold="A")
CHANGE = question(
    text="How did the signal change?", options=("Increased signal", "Decreased signal", "No change"), gold="A"
)
PANELS = question(
    text="How do panels A and B differ?",
    options=("The mass is larger in A", "The mass is larger in B", "There is no difference"),
    gold="B",
)
CURVES = question(
    text="Which group has the lowest mortality in the plot?",
    options=("Treated group", "Placebo group", "Historical controls"),
    gold="A",
)
METAL = question(
    text="Which process made the sample in the micrograph?", options=("Casting", "Forging", "Sintering"), gold="C"
)
YES = question(text="Is there a fracture in the image?", options=("Yes", "No"), gold="A")

SEEN = "A thin white line runs along the right upper zone, and beyond it no lung markings are seen."


def reason(body, asked=CHEST, hinted=False):
    line = f"{asked.options['ABCD'.index(asked.gold)]} ({asked.gold})"
    return checks.judge(rationale(f"{body}\n\nAnswer: {line}", hinted=hinted), asked, VerifyConfig()).reason


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (CHEST, "The meniscus at the right base is concave, so the answer is option A."),
        (CHEST, "The heart fills more than half of the thorax. Hence (C) is correct."),
        (CHEST, "Fluid blunts the angle on the right, which confirms option A."),
        (CHEST, "The right angle is blunted with a meniscus. This is a pleural effusion."),
        (CHEST, "The heart shadow is wide, and these findings indicate cardiomegaly."),
        (CHEST, "The lungs are clear to the edge on both sides. There is no pneumothorax."),
        (CHEST, "Lung markings reach the chest wall on both sides, which rules out pneumothorax."),
        (CHEST, "Both lungs are clear and the heart is small, therefore there is no abnormality."),
        (MODALITY, "The skull is a bright rim and the brain is grey, which is typical of computed tomography."),
        (MODALITY, "Bright speckle with dark shadows fits an ultrasound."),
        (MODALITY, "The bone is white and the air black. This is a CT scan with a soft window."),
        (ARROW, "The arrow points to a lymph node with a fatty hilum and a smooth border."),
        (ARROW, "A bright tube branches towards the hilum; therefore, the structure is a blood vessel."),
        (COUNT, "One dark nodule lies in segment 2 and one in segment 7, so two nodules are counted."),
        (COUNT, "There are four dark round nodules in the right lobe."),
        (COUNT, "Dark round nodules are scattered in the right lobe, 4 in total."),
        (SIDE, "A bright round lesion lies in the left hemisphere next to the ventricle."),
        (LEVEL, "A dense patch fills the lower zone, below the horizontal fissure."),
        (CHANGE, "The signal of the marrow is clearly decreased against the muscle beside it."),
        (PANELS, "The rim is thicker and the centre is dark, so the mass is larger in A."),
        (CURVES, "The dashed curve of the placebo group stays lowest from month 3 on."),
        (METAL, "Long bright dendrites with round pores between them are seen, so this is casting."),
    ],
)
def test_reasoning_that_concludes_another_answer(asked, body):
    assert reason(body, asked) == "concludes_another"


@pytest.mark.parametrize(
    "body",
    [
        "As the correct answer is pneumothorax, the thin white line must be the pleura.",
        "Given that the right option is pneumothorax, a thin white line has to be there.",
        "Consistent with the provided label, a thin white line runs along the right lung.",
        "Since we know the answer is pneumothorax, the white line on the right is the pleura.",
        "The label given in the prompt is pneumothorax: the prompt says the answer, and a white line is seen.",
        "To justify the given answer, I point at the white line on the right.",
        "The ground-truth label is pneumothorax, and a white line is seen.",
        "I have to conclude pneumothorax, so I look for a white line on the right.",
        "The expected answer is pneumothorax; a white line is seen on the right.",
        "Working backwards from the answer, the white line is the pleura.",
        "You told me that it is a pneumothorax, and a white line is seen.",
        "The answer has already been given, and the white line on the right fits it.",
        "We were instructed to say pneumothorax, and a white line is seen.",
        "A white line on the right supports the given answer.",
        "According to the reference answer this is pneumothorax, with a white line on the right.",
    ],
)
@pytest.mark.parametrize("hinted", [False, True])
def test_an_echo_of_the_hint(body, hinted):
    assert reason(body, hinted=hinted) == "leaks_hint"


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("cites_caption", "As the caption states, a white line runs along the right lung."),
        ("cites_caption", "This figure is from a case report on collapsed lungs; a white line is seen."),
        ("cites_caption", "The paper describes a collapsed lung, and the white line on the right is its edge."),
        ("cites_caption", "Judging by the title of the article, the white line is the edge of the lung."),
        ("cites_caption", "The file name contains the word, and a white line is seen on the right."),
        ("cites_caption", "The accompanying description mentions a collapsed lung with a white edge."),
        ("cites_caption", "The authors note a white line along the right lung."),
        ("cites_history", "The patient is a 23-year-old man, and a white line is seen on the right."),
        ("cites_history", "The patient presented with sudden chest pain; a white line is seen on the right."),
        ("cites_history", "Given his history of smoking, the white line on the right is the pleura."),
        ("cites_history", "With the patient's symptoms in mind, the white line on the right is the pleura."),
        ("cites_history", "A follow-up CT confirmed the air; a white line is seen on the right."),
        ("cites_history", "The white line on the right was later confirmed by CT."),
        ("cites_missing_image", "The second image, a CT, has the same air around the right lung."),
        ("cites_missing_image", "Image 3 has the same white line on the right."),
        ("cites_missing_image", "Figure 4 shows the same white line on the right."),
        ("cites_missing_image", "The previous image has no such white line on the right."),
    ],
)
def test_sources_outside_the_image(why, body):
    assert reason(body) == why


@pytest.mark.parametrize(
    "body",
    [
        "I am unable to view the radiograph or any image, but a white line is typical.",
        "I'm sorry, but I cannot analyze medical images. A white line would mean air.",
        "Without the image, one can only say that a white line would mean air.",
        "Assuming a typical radiograph, there is a white line along the right lung.",
        "As a language model I know the white line of the pleura.",
        "The image is not available to me, so I take it that a white line is there.",
        "If I could see the image, I would look for a white line on the right.",
        "A typical radiograph of this condition shows a white line on the right.",
        "Please upload the image so that the white line on the right can be seen.",
        "My best guess is a collapsed lung with a white line on the right.",
    ],
)
def test_blindness(body):
    assert reason(body) == "sees_no_image"


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (CHEST, "The question asks which abnormality is seen in this chest radiograph."),
        (CHEST, "The chest radiograph shows an abnormality, and the abnormality is pneumothorax."),
        (CHEST, "Looking at the image, it can clearly be seen that the correct finding is pneumothorax."),
        (CHEST, "Pneumothorax is one of the most common emergencies in young people."),
        (MODALITY, "Magnetic resonance imaging is widely used in practice because it is harmless."),
        (METAL, "Sintering is usually the process that is asked about in questions like this."),
        (ARROW, "Based on the image provided, the arrow clearly indicates a tumor as one can see."),
    ],
)
def test_reasoning_without_anything_seen(asked, body):
    assert reason(body, asked) == "no_evidence"


@pytest.mark.parametrize(
    "body",
    [
        f"Sure! Here is my analysis. {SEEN}",
        f"{SEEN} Let me know if you have more questions.",
        f"{SEEN}\n### Final Answer\nIt has been found above, in the white line.",
        f"<explanation> {SEEN}",
        f"Certainly! {SEEN}",
        f"Okay, so the user wants one option. {SEEN}",
        f"{SEEN} I need to output the answer in the required format.",
        f"{SEEN} I hope this helps!",
    ],
)
def test_chatter(body):
    assert reason(body) == "chatter"


@pytest.mark.parametrize(
    "body",
    [
        f"{SEEN} Wait, it may be a fold of skin. Let me reconsider.",
        f"Hmm. {SEEN}",
        f"{SEEN} It could be any of these, so I will just pick one.",
        f"I'm not sure at all. {SEEN}",
    ],
)
def test_indecision(body):
    assert reason(body) == "undecided"


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ("右侧胸腔可见一条细的白线，其外侧没有肺纹理，心影大小正常。", CHEST),
        ("Тонкая белая линия видна справа, за ней нет лёгочного рисунка.", CHEST),
        (
            "Eine dünne weiße Linie ist auf der rechten Seite zu sehen, und dahinter ist nichts.",
            CHEST,
        ),
        ("The line 在右侧上方 is white and thin.", CHEST),
    ],
)
def test_another_language_than_the_question(body, asked):
    assert reason(body, asked) == "other_language"


@pytest.mark.parametrize("end", ["Therefore,", "The answer is", "So the correct option", "Thus, the likely diagnosis"])
def test_no_stump_is_taught(end):
    judged = checks.judge(rationale(f"{SEEN} {end}\n\nAnswer: Pneumothorax (B)"), CHEST, VerifyConfig())
    assert judged.body == SEEN
    assert reason(f"{end}") in ("no_reasoning", "unfinished", "too_short")


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (CHEST, f"{SEEN} An effusion would blunt the angle, and the heart is not enlarged."),
        (CHEST, f"There is no pleural effusion and no cardiomegaly. {SEEN}"),
        (CHEST, f"{SEEN} Unlike pleural effusion, this has no meniscus."),
        (CHEST, f"{SEEN} A small pleural effusion may be present as well, but the line is the leading sign."),
        (CHEST, "The findings are most likely a pneumothorax: a thin white line without markings beyond it."),
        (CHEST, "At first glance this looks like a pleural effusion, but the angle is sharp and a thin line is seen."),
        (CHEST, "No caption or scale bar is given; the thin white line on the right is seen at once."),
        (CHEST, "The markings stop at a thin line. In patients with a history of trauma this is common."),
        (CHEST, "The finding cannot be confirmed without a CT, but a thin white line is seen on the right."),
        (HEALTHY, "The lungs are clear, the heart is small, and there is no acute abnormality."),
        (HEALTHY, "There is no pneumothorax, no pleural effusion, and the angles are sharp."),
        (MODALITY, "CT would show a bright skull, and ultrasound has speckle; here fluid is bright and bone is dark."),
        (MODALITY, "Bone is dark and fluid is bright. CT and X-ray are excluded by the dark bone."),
        (MODALITY, "Cortical bone is black, unlike on a CT, and the ventricles are bright."),
        (ARROW, "The arrow marks a round mass beside a blood vessel; its margin is irregular."),
        (ARROW, "The irregular mass at the arrow displaces the nerve and the lymph node next to it."),
        (COUNT, "One dark nodule lies in segment 2, and two more in segment 7."),
        (COUNT, "Two dark nodules are seen on the left and one on the right, which makes three."),
        (COUNT, "There are two large ones in segment 4 and another small one below, 3 in all."),
        (SIDE, "A bright lesion is seen on the left side of the image, which is the patient's right."),
        (SIDE, "The bright lesion is right of the midline, and the left hemisphere is intact."),
        (LEVEL, "A dense patch lies above the horizontal fissure, in the upper zone; the lower zone is clear."),
        (CHANGE, "The marrow is brighter than the muscle, an increased signal."),
        (PANELS, "Both images show the liver; in the second image the mass is wider, with a dark centre."),
        (PANELS, "Panel B shows a mass about twice as wide as that in panel A."),
        (CURVES, "The figure legend names three colours. The blue curve of the treated group stays lowest."),
        (CURVES, "The y axis is the share of deaths, and the solid line, treated patients, ends far below the others."),
        (CURVES, "The title of the plot is mortality; the lowest curve is labelled treated."),
        (METAL, "Necks between round grains and angular pores at their corners are seen, as after sintering."),
        (METAL, "Casting would leave dendrites, forging elongated grains; here round grains meet at necks."),
        (YES, "A dark line crosses the cortex of the bone, with a small step."),
        (CHEST, "**Findings:**\n1. A thin white line on the right\n2. No markings beyond it\n3. Sharp angles"),
        (CHEST, f"### Observation\n{SEEN}\n### Conclusion\nThe line is the edge of a collapsed lung."),
        (CHEST, f"{SEEN} The label 'R' and the letters β and α are printed at the top."),
        (
            CHEST,
            "In the left panel the lung is clear; in the right panel it has a white edge.",
        ),
        (CHEST, f"I cannot see an effusion in the image. {SEEN}"),
        (CHEST, f"{SEEN} Therefore, pneumothorax is the correct answer."),
    ],
)
@pytest.mark.parametrize("hinted", [False, True])
def test_good_reasoning_is_spared(asked, body, hinted):
    assert reason(body, asked, hinted) == "accepted"


def test_what_the_question_tells_itself_may_be_repeated():
    told = question(
        text="A 45-year-old man presented with chest pain and a history of smoking. What does the image show?",
        options=CHEST.options,
        gold="B",
    )
    assert reason(f"In this 45-year-old man who presented with chest pain, {SEEN.lower()}", told) == "accepted"
    german = question(
        text="Was zeigt das Bild der Lunge und des Herzens?", options=("Erguss", "Pneumothorax"), gold="B"
    )
    assert reason("Eine dünne Linie ist auf der rechten Seite zu sehen, und dahinter ist keine Zeichnung.", german) == (
        "accepted"
    )
