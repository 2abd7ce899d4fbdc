"""Where images come from: folders, named sets and the embedded photographs; decoding; what happens to bad files."""
