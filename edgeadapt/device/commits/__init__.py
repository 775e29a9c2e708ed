"""A batch of labels becomes a checked, durable, published state. Whatever changes the state for
good goes through here.
"""
