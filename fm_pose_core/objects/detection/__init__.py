"""Where the objects are in an image: a small network of its own, of f, g and h like the one for poses, which gives that
one its windows. Beyond the paper, which takes them from a given bounding box (section 4.1)."""
