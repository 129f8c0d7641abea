"""Lists of classes in every form: understood or refused, never shifted."""

import json

import numpy as np
import pytest

from fcn_jax.data import class_lists, classes, known_classes
from fcn_jax.types import VOID, InputError

NAMES = ("background", "cat", "dog")
PLAIN = {0: 0, 1: 1, 2: 2, VOID: VOID}

FORMS = {
    "names": "background\ncat\ndog\n",
    "header": "names\nbackground\ncat\ndog\n",
    "numbered": "0 background\n1 cat\n2 dog\n",
    "numbered, colons": "0: background\n1: cat\n2: dog\n",
    "numbered, any order": "2 dog\n0 background\n1 cat\n",
    "yaml": "names:\n  0: background\n  1: cat\n  2: dog\n",
    "yaml list": "names:\n- background\n- cat\n- dog\n",
    "roboflow": "Pixel Value, Class\n0, background\n1, cat\n2, dog\n",
    "table, no header": "0,background\n1,cat\n2,dog\n",
    "name first": "name;id\nbackground;0\ncat;1\ndog;2\n",
    "labelme": "__ignore__\nbackground\ncat\ndog\n",
    "quoted": '"background"\n"cat"\n"dog"\n',
    "header of two words": "id name\n0 background\n1 cat\n2 dog\n",
    "header, colons": "ID: name\n0: background\n1: cat\n2: dog\n",
    "header, underscores": "class_id class_name\n0 background\n1 cat\n2 dog\n",
    "title": "List of classes:\nbackground\ncat\ndog\n",
    "categories": "category\nbackground\ncat\ndog\n",
    "number behind": "cat 1\nbackground 0\ndog 2\n",
    "number behind, colons": "dog: 2\ncat: 1\nbackground: 0\n",
    "equals signs": "0=background\n1=cat\n2=dog\n",
    "hyphens": "0 - background\n1 - cat\n2-dog\n",
    "brackets": "[0] background\n[1] cat\n[2] dog\n",
    "yaml with more behind": "names:\n- background\n- cat\n- dog\nnc: 3\n",
    "comments behind": "background\ncat # or kitten\ndog\n",
    "yaml with more": "nc: 3\nnames:\n  0: background\n  1: cat\n  2: dog\n",
    "codes": "name,category_id\ndog,2\nbackground,0\ncat,1\n",
    "two words for a name": "label,class\n0,background\n1,cat\n2,dog\n",
    "more columns": "Idx,Ratio,Name\n0,0.5,background\n1,0.3,cat\n2,0.2,dog\n",
    "cvat without colours": "background:::\ncat:::\ndog:::\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_without_colours_mean_the_same(form):
    found = class_lists.parse_classes(FORMS[form], "classes.txt")
    assert found.names == NAMES
    assert found.colours is None
    assert found.values == PLAIN


COLOURED = {
    "name r g b": "background 0 0 0\ncat 128 0 0\ntall dog 0 128 0\n",
    "r g b name": "0 0 0\tbackground\n128 0 0\tcat\n0 128 0\ttall dog\n",
    "r g b name, blanks": "0 0 0 background\n128 0 0 cat\n0 128 0 tall dog\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\ncat,128,0,0\ntall dog,0,128,0\n",
    "csv, no header": "background,0,0,0\ncat,128,0,0\ntall dog,0,128,0\n",
    "blank header": "name r g b\nbackground 0 0 0\ncat 128 0 0\ntall dog 0 128 0\n",
    "id r g b name": "1 128 0 0 cat\n0 0 0 0 background\n2 0 128 0 tall dog\n",
    "hex": "background #000000\ncat #800000\ntall dog #008000\n",
    "csv, hex": "name,color\nbackground,#000000\ncat,#800000\ntall dog,#008000\n",
    "csv, tuples": 'name,rgb\nbackground,"(0, 0, 0)"\ncat,"(128,0,0)"\ntall dog,"[0,128,0]"\n',
    "csv, b g r": "name,b,g,r\nbackground,0,0,0\ncat,0,0,128\ntall dog,0,128,0\n",
    "colon": "background: 0 0 0\ncat: 128,0,0\ntall dog: 0, 128, 0\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n"
    "tall dog:0,128,0::\n",
}


@pytest.mark.parametrize("form", COLOURED)
def test_forms_with_colours_mean_the_same(form):
    found = class_lists.parse_classes(COLOURED[form], "classes.txt")
    assert found.names == ("background", "cat", "tall dog")
    assert found.palette.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert found.colours == {
        (224, 224, 192): VOID, (0, 0, 0): 0, (128, 0, 0): 1, (0, 128, 0): 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["void", "Unlabelled", "unlabeled", "ignore", "_void_"])
@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_void_is_no_class_wherever_it_stands(name, position):
    lines = list(NAMES)
    lines.insert(position, name)
    found = class_lists.parse_classes("\n".join(lines), "classes.txt")
    assert found.names == NAMES
    # Its number means void, and the numbers of the others are not shifted.
    expected = {lines.index(n): i for i, n in enumerate(NAMES)}
    assert found.values == {**expected, position: VOID, VOID: VOID}
    colours = "\n".join(f"{line} {9 * i} 0 0" for i, line in enumerate(lines))
    coloured = class_lists.parse_classes(colours, "classes.txt")
    assert coloured.names == NAMES
    assert coloured.colours is not None
    assert coloured.colours[(9 * position, 0, 0)] == VOID
    assert coloured.palette[:, 0].tolist() == [9 * lines.index(n) for n in NAMES]


def test_255_can_be_a_class():
    found = class_lists.parse_classes("0 background\n255 object\n", "classes.txt")
    assert found.names == ("background", "object")
    assert found.values == {0: 0, 255: 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"names": ["a", "b"]}', "line 1 is no list of classes"),
        ("id,colour\n0,red\n1,blue\n", "names no column `name`"),
        ("a,b,c\n1,2,x\n2,3,y\n", "is not understood|names no column"),
        ("0 a\n0 b\n", "numbers two classes 0"),
        ("name,r,g,b\na,0,0,0\nb,0,0,red\n", "line 3 is not understood"),
        ("0 a\n1 b\nc\n", "line 3 has no number: number all classes, or none"),
        ("a\n1 b\n2 c\n", "line 1 has no number"),
        ("key,name\n7,a\n3,b\n", "the column key holds numbers: call it id"),
        ('0,"a\n1,b\n2 "c",\n', "names no column|is not understood"),
        ("id,name\n0,a\n1,\n2,c\n", "line 3 is not understood"),
        ("nc: 2\nnames: [a, b]\n", "line 2 is no list of classes"),
        ("| id | name |\n|---|---|\n| 0 | a |\n", "line 1 is no list of classes"),
        (
            "a 0.0 0.0 1.0\nb 0.5 0.0 1.0\n",
            "line 1: 'a 0.0 0.0 1.0' has a colour that is not three",
        ),
        ("a 0 0 255 255\nb 0 9 255 255\n", "line 1: leave alpha out"),
        ("name,r,g,b\na,0,0,0\nb,0,0,999\n", r"line 3: colour \(0, 0, 999\)"),
        ("id,name\n0,a\n1,b\nvoid\n", "line 4 is not of the form of the others"),
        ("0,a\n1,b\nvoid\n", "line 3 is not of the form"),
        ("0,a\n1;b\n", "line 2 is not of the form"),
        ("name,r,g,b\na,1,2,3\nb,4,5,6\nunlabeled\n", "line 4 is not of the form"),
        ("a:0,0,0::\nb:1,1,1::\nc\n", "line 3 is not of the form"),
        ("- a\n- b\nc\n", "line 3 is no item of the list"),
        ("item {\n  name: 'a'\n}\n", "line 1 is no list of classes"),
        ("\u00b2,a\n\u00b3,b\n", "names no column|is not understood"),
        ("9" * 5000 + ",a\n1,b\n", "names no column|is not understood"),
    ],
)
def test_what_is_not_understood_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        class_lists.parse_classes(text, "classes.txt")


@pytest.mark.parametrize(
    "names",
    [("2 wheeler", "car"), ("class 0", "class 1"), ("red", "green"), ("label b", "label r")],
)
def test_names_with_digits_and_words_of_headers_stay_names(names):
    assert class_lists.parse_classes("\n".join(names), "c").names == names


@pytest.mark.parametrize(
    "text",
    [
        "background\nroad, paved\n",
        'name,r,g,b\nbackground,0,0,0\n"road, paved",1,2,3\n',
        'id,name\n0,background\n1,"road, paved"\n',
    ],
)
def test_names_with_commas(text):
    assert class_lists.parse_classes(text, "classes.txt").names == ("background", "road, paved")


def test_void_may_have_a_number_that_no_mask_holds():
    found = class_lists.parse_classes("-1 void\n0 background\n1 cat\n", "classes.txt")
    assert found.names == ("background", "cat")
    assert (found.values[0], found.values[1]) == (0, 1)


def test_cityscapes_ids_become_the_19_classes():
    found = known_classes.cityscapes()
    assert len(found.names) == 19
    assert (found.values[7], found.values[33], found.values[0]) == (0, 18, VOID)
    assert found.names[found.values[26]] == "car"
    assert known_classes.cityscapes(train_ids=True).values[18] == 18


def test_ade20k_and_mapillary():
    table = (
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t1\t1\twall\n2\t0.1\t9\t1\t1\tsky, air\n"
    )
    found = known_classes.ade20k(table, "objectInfo150.txt")
    assert (found.names, found.values) == (("wall", "sky"), {0: VOID, VOID: VOID, 1: 0, 2: 1})
    labels = [("Bird", (9, 0, 0)), ("Unlabeled", (0, 0, 0)), ("Car", (0, 9, 0))]
    text = json.dumps({"labels": [{"readable": n, "color": c} for n, c in labels]})
    found = known_classes.mapillary(text, "config.json")
    assert (found.names, found.palette.tolist()) == (("Bird", "Car"), [[9, 0, 0], [0, 9, 0]])
    assert found.values == {0: 0, 1: VOID, 2: 1, VOID: VOID}
    with pytest.raises(InputError, match="no list of Mapillary's labels"):
        known_classes.mapillary("{}", "config.json")


@pytest.mark.parametrize(
    "name", ["background", "Background", "_background_", "BG", "__background__"]
)
def test_the_background_is_found_by_its_name_wherever_it_stands(name):
    found = classes.find_trivial(("Apple", "Pear", name), np.array([9, 1, 1]))
    assert found == (2, "all-background")
    assert found.background == 2


def test_without_a_background_the_trivial_prediction_is_the_majority_class():
    # The last count is void's, which is no class however many there are.
    found = classes.find_trivial(("sky", "road", "backgrounds"), np.array([3, 5, 4, 99]))
    assert found == (1, "majority class")
    assert found.background is None
