"""What a server that strangers use needs around the page: who may come in, whose turn it is, what may lie on the disk.

Nothing here knows gradio or a model; the page (``tokviz.ui``) puts it together.
"""
