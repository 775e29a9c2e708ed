"""What a learner and a bundle tell other people's dashboards: a thin file and an extra each."""
