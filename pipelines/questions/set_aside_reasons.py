"""The reason of a row that gave no question -> what it means, in words that say what to correct."""

from pipelines.images.decoding import MAX_ASPECT, MAX_PIXELS
from pipelines.images.image_bytes import MAX_BYTES
from pipelines.images.sandbox import TIMEOUT_S
from pipelines.questions.candidates import MAX_CHARACTERS, MAX_IMAGES
from pipelines.questions.decontamination import Level
from pipelines.questions.table_readers.by_suffix import MAX_ROW_BYTES
from pipelines.questions.table_readers.parquet_reader import MEMORY_BYTES

_SHARED = {
    Level.IMAGE: "the same image",
    Level.PERCEPTUAL: "an image that looks the same",
    Level.FIGURE: "the same figure",
    Level.ARTICLE: "the same article",
    Level.TEXT: "the same question text, with the same options, right answer, image or figure",
}

MEANING = {
    # the row
    "line_is_no_json": "the line is no JSON object",
    "row_too_long": f"it takes more than {MAX_ROW_BYTES >> 20} MiB",
    "row_group_too_large": f"its row group has a row that takes more than {MEMORY_BYTES >> 20} MiB to decode",
    "quote_never_closed": "a quote opens a cell, and nothing closes it; write a quote inside a cell twice",
    "row_unreadable": "a cell holds what its column's type cannot hold",
    "row_is_empty": "all of its cells are empty, as spreadsheets write them below a table",
    "wrong_cell_count": "the row has more or fewer cells than the first line has names",
    "text_is_not_utf8": "save the table as UTF-8",
    "text_too_long": f"a text has more than {MAX_CHARACTERS} characters",
    "chat_markup_in_text": "a text holds a chat template's markup, such as <|im_end|>, and would break out of its turn",
    # its fields
    "cell_is_no_text": "write every cell as text",
    "question_missing": "write the question's text",
    "question_is_no_text": "write the question as text",
    "options_missing": "write the options as a list, or in columns option_A, option_B, ...",
    "options_are_no_list": "write a list of texts; in CSV as JSON, or in columns option_A, option_B, ...",
    "option_is_no_text": "write every option as text or as a number",
    "option_missing": "an option is empty",
    "too_few_options": "a question needs two options",
    "too_many_options": "letters reach for 26 options",
    "option_has_line_breaks": "write every option on one line, as an answer names it",
    "options_repeated": "two options say the same",
    "option_letters_unclear": "some options have a letter before them and others none: it may belong to the text",
    "option_letters_have_gaps": "the options' letters do not follow one another from A",
    "answer_missing": "write the right option's letter",
    "answer_is_no_text": "write the right option's letter as text",
    "answer_is_no_option": "the answer is none of the options' letters, texts or numbers",
    "answer_unclear": "the answer is one option's letter and another one's text, and the other rows do not tell which "
    "is meant; write letters",
    "answer_number_unclear": "options may be counted from 0 or from 1, or the number may be an option's text, and the "
    "other rows do not tell; write letters",
    "label_contradicts_answer": "the answer's letter and its text name different options",
    "letters_contradict_each_other": "the letter of the answer fits more than one option",
    "split_missing": "write train, validation or test",
    "split_is_no_text": "write train, validation or test",
    "unknown_split": "a split is train, validation or test",
    "columns_repeated": "two of its fields have the same name but for case, blanks and hyphens",
    "stratum_is_no_text": "write the stratum as text",
    "caption_is_no_text": "write the caption as text",
    "figure_is_no_text": "write the figure's name as text",
    "article_is_no_text": "write the article's name as text",
    "no_question_in_record": "the record's `vqa` holds no question",
    "geometry_unreadable": "a crop is a list of corners, each with finite x and y",
    # its images
    "image_missing": "name the image's file",
    "image_is_no_text": "name the image's file as text",
    "images_are_no_list": "name the images as a list of texts; in CSV as JSON",
    "too_many_images": f"a question shows {MAX_IMAGES} images at most",
    "missing_image": "there is no such file in the images' folder or zip",
    "image_name_unreadable": "the image's name is too long, or has characters that cannot be printed",
    "image_name_is_ambiguous": "several files have this name; write their folder before it",
    "image_outside_folder": "the image's name leads out of the images' folder",
    "image_is_an_address": "it is a link, and nothing is fetched: put the image's file into the folder, and name that",
    "image_is_inline": "the image's bytes are in the table: save each as a file, and name that",
    "image_file_too_large": f"an image's file has {MAX_BYTES >> 20} MiB at most",
    "too_many_pixels": f"an image has {MAX_PIXELS // 1_000_000} million pixels at most",
    "too_elongated": f"one side is more than {MAX_ASPECT} times as long as the other, or would be when it is shown",
    "crop_outside_image": "the crop lies outside the image",
    "not_an_image": "the file is no PNG, JPEG, TIFF, BMP, GIF or WebP",
    "dicom_image": "DICOM is not read: export PNG or JPEG, in the window that the question is about",
    "heic_image": "HEIC is not read: save it as JPEG or PNG",
    "avif_image": "AVIF is not read: save it as JPEG or PNG",
    "jpeg_2000_image": "JPEG 2000 is not read: save it as PNG or JPEG",
    "jpeg_xl_image": "JPEG XL is not read: save it as PNG or JPEG",
    "pdf_document": "it is a PDF: save its figure as PNG",
    "svg_drawing": "it is an SVG: save it as PNG",
    "git_lfs_pointer": "it stands for a file that Git LFS has not fetched: run `git lfs pull` in its repository",
    "deep_colour_layout": "16 bits a channel are read where channels lie side by side and are not multiplied by alpha",
    "damaged_image": "the image ends too early, or cannot be decoded",
    "damaged_zip": "the zip that holds the image cannot be read",
    "damaged_zip_member": "the image cannot be unpacked: damaged, encrypted, or packed by an unknown method",
    "needs_too_much_memory": "the image takes more memory to decode than an image may",
    "takes_too_long": f"the image takes more than {TIMEOUT_S:g} s to decode",
    "crashes_the_decoder": "the image crashes its decoder",
    # the other rows
    **{f"contaminated_{level}": f"an evaluation question has {what}" for level, what in _SHARED.items()},
    "answers_contradict": "another row asks the same of the same image, and is answered otherwise",
    "exact_duplicate": "an earlier row says the very same",
    "text_duplicate": "an earlier row asks the same of the same image, in another spelling or order",
    "perceptual_duplicate": "an earlier row asks the same of an image that looks the same",
}
