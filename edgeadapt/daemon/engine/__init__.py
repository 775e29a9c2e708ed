"""The loop that answers, the labels on their way to the learner, and when the learner has to
wait.
"""
