"""Rationales in the words that models use, on both sides of the border, whatever the reason."""

import pytest

from tests.pipelines.fixtures import question
from tests.pipelines.verification.test_kinds import (
    ARROW,
    CHANGE,
    CHEST,
    COUNT,
    CURVES,
    HEALTHY,
    LEVEL,
    METAL,
    MODALITY,
    PANELS,
    SIDE,
    YES,
    reason,
)

GOOD = [
    (
        CHEST,
        "This frontal radiograph demonstrates a hyperlucent right hemithorax with absence of vascular markings "
        "and a visible visceral pleural edge. The mediastinum is shifted slightly to the left.",
    ),
    (
        CHEST,
        "Key observations:\n- Visible pleural edge on the right\n- Absent lung markings lateral to it\n- Heart "
        "size normal, so cardiomegaly is unlikely\n- Costophrenic angles sharp, so pleural effusion is excluded",
    ),
    (
        MODALITY,
        "The image displays a sagittal section of the knee. The bright signal of fluid and the dark menisci, "
        "together with the lack of bone brightness, indicate an MRI rather than CT.",
    ),
    (
        MODALITY,
        "Option by option: computed tomography would show bright bone, ultrasound would be grainy, and X-ray "
        "would overlap structures. The grey-scale soft tissue detail here fits magnetic resonance.",
    ),
    (
        METAL,
        "The SEM micrograph shows equiaxed grains of roughly 2 µm joined by necks, with residual porosity at "
        "triple junctions. Such a microstructure is typical for powder that was consolidated below its melting "
        "point.",
    ),
    (
        METAL,
        "Spherical particles bonded at contact points are visible. There are no dendrites, which would point "
        "to casting, and no elongated grains, which would point to forging.",
    ),
    (
        CURVES,
        "At 24 months the blue line (treated) is at about 10 %, the red one (placebo) at about 25 %, and the "
        "grey one at 30 %.",
    ),
    (
        CURVES,
        "The plot has three curves. The one for historical controls is the highest and the placebo curve is in "
        "between; the remaining curve is the lowest.",
    ),
    (
        ARROW,
        "The arrow points to an irregular, heterogeneously enhancing lesion that compresses the adjacent blood vessel.",
    ),
    (COUNT, "I count the dark round foci: one near the dome, one by the gallbladder, one in the left lobe."),
    (COUNT, "Three hypodense round lesions can be seen; the largest measures 2 cm and the smallest 0.5 cm."),
    (PANELS, "In panel A the mass measures about 2 cm; in panel B it measures about 4 cm and indents the capsule."),
    (PANELS, "The first image (A) shows a small round mass. The second image (B) shows that it has doubled in size."),
    (YES, "There is a lucent line through the distal radius with cortical disruption and slight dorsal angulation."),
    (
        HEALTHY,
        "Both lungs are well aerated, the cardiac silhouette is normal, and the costophrenic angles are sharp. "
        "No pneumothorax or effusion is identified.",
    ),
    (SIDE, "The hyperintense lesion sits in the right frontal lobe. The left hemisphere is symmetric and intact."),
    (CHANGE, "Compared with the muscle beside it, the marrow appears brighter on this sequence."),
    (LEVEL, "The opacity is confined to the area above the minor fissure, near the apex."),
    (
        CHEST,
        "The given image is a chest X-ray. A pleural line is visible in the right apex and beyond it no "
        "vessels are seen. Given these findings, the correct answer is pneumothorax.",
    ),
    (
        CHEST,
        "To determine the answer, we need to look at the pleural space. A thin line parallels the right chest "
        "wall, with no vessels beyond it.",
    ),
    (CHEST, "It is hard to tell whether the left base is clear, but on the right a thin pleural line is evident."),
    (CHEST, "The patient is rotated slightly. A thin pleural line is evident on the right."),
    (
        CHEST,
        "In a young patient such a thin line at the right apex is usually a sign of air; no vessels lie beyond it.",
    ),
    (MODALITY, "The question asks about the modality. High soft tissue contrast, dark cortical bone, bright CSF."),
    (ARROW, "From the options provided, the irregular border and the patchy density at the arrow fit only one."),
    (
        CHEST,
        "Option A is unlikely because the angles are sharp. Option C is unlikely because the heart is small. "
        "The pleural line at the right apex fits option B.",
    ),
    (
        CHEST,
        "A: no blunting of the angles. B: a pleural line is present at the right apex. C: heart of normal "
        "size. D: not the case.",
    ),
    (METAL, "Round grains. Necks. Pores at the corners of grains."),
    (MODALITY, "This is an axial T2 image of the brain with bright CSF."),
    (CURVES, "According to the legend, the dashed line is the treated group, and it is the lowest at the end."),
    (CURVES, "The text next to the axis reads 'mortality (%)'; the green line, labelled 'treated', is lowest."),
    (
        question(text="What is the length of the scale bar?", options=("1 µm", "5 µm", "10 µm", "50 µm"), gold="C"),
        "The scale bar in the lower right corner is labelled 10 µm.",
    ),
    (
        question(text="Which letter marks the nucleus?", options=("A", "B", "C", "D"), gold="B"),
        "The large round dark body in the centre is marked with the letter B.",
    ),
    (
        question(text="What stain is this?", options=("H&E", "PAS", "Gram stain", "Trichrome"), gold="A"),
        "Nuclei are blue and the cytoplasm is pink, so this is the standard stain of haematoxylin with eosin.",
    ),
    (
        question(text="At which vertebral level is the disc herniated?", options=("L3-L4", "L4-L5", "L5-S1"), gold="C"),
        "The disc above the sacrum bulges backward into the canal, one level below a normal L4-L5 disc.",
    ),
    (
        question(text="What is the grade of the tumor?", options=("Grade 1", "Grade 2", "Grade 3"), gold="C"),
        "Sheets of pleomorphic cells without glands and many mitoses are seen; grade 1 would have glands.",
    ),
    (
        question(text="Is the trachea midline?", options=("Yes", "No"), gold="A"),
        "The dark air column of the trachea lies between the clavicles, not shifted to either side.",
    ),
    (
        question(text="Is there evidence of effusion?", options=("Yes", "No"), gold="B"),
        "Both angles are sharp and no meniscus is seen.",
    ),
    (CHEST, "I see a thin pleural line at the right apex. I don't see any blunting of the angles."),
    (
        question(text="What do the images show?", options=CHEST.options, gold="B"),
        "In both images a thin pleural line is seen at the right apex.",
    ),
]

BAD = [
    (
        CHEST,
        "The right costophrenic angle is obliterated with a meniscus-shaped opacity. These features are "
        "diagnostic of a pleural effusion.",
    ),
    (CHEST, "The cardiac silhouette occupies more than half of the thoracic width, consistent with cardiomegaly."),
    (CHEST, "No pneumothorax is seen; the lungs are fully expanded to the chest wall."),
    (
        CHEST,
        "After careful review, the image is best explained by pleural effusion due to the fluid level at the "
        "right base.",
    ),
    (MODALITY, "The image was acquired with ultrasound, since there is bright speckle and posterior shadow."),
    (MODALITY, "Bright bone and dark air: clearly a computed tomography slice."),
    (ARROW, "The arrow indicates a nerve, which is thin, dark and runs along the artery."),
    (
        ARROW,
        "The marked structure has a fatty hilum and an oval shape. Therefore it's most consistent with a lymph node.",
    ),
    (COUNT, "I can count two round dark lesions in the right lobe."),
    (COUNT, "Only one round dark lesion is visible in the left lobe."),
    (COUNT, "One in segment 4, one in segment 6, one in segment 7 and one in segment 8: that makes four."),
    (SIDE, "The lesion is located on the left, next to the ventricle, with a bright rim."),
    (PANELS, "The mass in A is clearly larger than the one in B, with a thick rim."),
    (PANELS, "Panel A shows a larger mass with a thick rim than panel B."),
    (PANELS, "The two panels are identical in size and shape, so there is no difference."),
    (CURVES, "The lowest curve at all times is the placebo group's, drawn in red."),
    (
        METAL,
        "Elongated grains in the direction of flow are seen. The sample was therefore forged, that is, made by "
        "forging.",
    ),
    (YES, "The cortex is smooth and unbroken everywhere. There is no fracture."),
    (YES, "No fracture line is visible in the dark cortex of the bone."),
    (
        question(text="Is there evidence of effusion?", options=("Yes", "No"), gold="B"),
        "A meniscus blunts the right angle, so an effusion is present.",
    ),
    (CHEST, "Because it has been stated that pneumothorax is correct, the line must be the pleura."),
    (CHEST, "Knowing the answer, one can find a thin line on the right."),
    (CHEST, "As indicated by the correct option, there is a thin line on the right."),
    (CHEST, "Since pneumothorax is the right answer, there must be a thin line on the right."),
    (CHEST, "The hint points at pneumothorax, and a thin line on the right fits."),
    (CHEST, "The answer provided is pneumothorax; therefore the thin line on the right is the pleura."),
    (CHEST, "Pneumothorax was given as the answer, and there is a thin line on the right."),
    (CHEST, "The description of the figure says that a thin line is seen on the right."),
    (CHEST, "From the original publication it is known that the thin line on the right is the pleura."),
    (CHEST, "This image, labelled PMC123_Fig2.jpg, has a thin line on the right."),
    (CHEST, "The patient, a smoker with chest pain, has a thin line on the right."),
    (CHEST, "A 30-year-old male with acute dyspnea has a thin line on the right."),
    (CHEST, "Clinical history of trauma supports the thin line on the right as the pleura."),
    (CHEST, "The lateral view, which is also provided, shows the thin line as well."),
    (CHEST, "Comparing with the second radiograph, the thin line on the right is new."),
    (CHEST, "I am not able to see the image, but the most common finding is a thin line."),
    (CHEST, "The image could not be loaded. A thin line would be expected on the right."),
    (CHEST, "Since I can't view images, I rely on general knowledge about thin pleural lines."),
    (CHEST, "I cannot provide a medical diagnosis, but a thin line on the right may be air."),
    (CHEST, "Assuming the image shows a standard case, a thin line is on the right."),
    (CHEST, "Pneumothorax refers to air in the pleural space. It is a common condition in tall young men."),
    (CHEST, "The best answer is the one that describes the abnormality in the radiograph."),
    (CHEST, "By process of elimination, the other options do not fit this chest radiograph."),
    (CHEST, "The image clearly shows pneumothorax, which is the abnormality visible in the radiograph."),
    (MODALITY, "MRI is commonly used to image soft tissues and it is a non-invasive technique."),
    (MODALITY, "Among the four options, magnetic resonance imaging is the best fit for the image shown."),
    (METAL, "Sintering is a process in which powder is heated below its melting point so that particles bond."),
    (CHEST, "Step 1:\nStep 2:\nStep 3: The thin line on the right."),
    (CHEST, '```json {"reasoning": "thin line on the right"} ```'),
    (CHEST, "Great question! There is a thin line on the right."),
    (CHEST, "There is a thin line on the right. Do you want me to explain further?"),
    (CHEST, "There is a thin line on the right. Note: I am an AI and this is not medical advice."),
    (CHEST, "Maybe it is an effusion. Or maybe not. I really can't say. Let me go with this one."),
]


@pytest.mark.parametrize(("asked", "body"), GOOD)
def test_evidence_that_leads_to_the_answer_may_teach(asked, body):
    assert reason(body, asked) == "accepted"


@pytest.mark.parametrize(("asked", "body"), BAD)
def test_what_does_not_rest_on_the_image_or_leads_elsewhere_may_not(asked, body):
    assert reason(body, asked) != "accepted"
