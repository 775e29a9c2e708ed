"""Methods that follow a condition without labels, in two folders by what they change;
``adaptations`` names them all. Nothing here takes a label from the field.
"""
