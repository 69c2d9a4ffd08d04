"""What is wrong with a data set, found before a long run meets it, and how to correct it.

`checks` runs all of it: `annotations` (one pass over what a format says, with `boxes` and
`anchors`), `ground_truth`, then `pictures` (every image decoded, each by `inspecting`); all tell
`findings`. `fixing` writes a corrected set.
"""
