"""What a window says: shifted, novel, which condition is nearest, and what to do about it. Nothing
here changes the state.
"""
