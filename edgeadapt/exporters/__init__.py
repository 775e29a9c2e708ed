"""What a learner and a bundle tell other people's dashboards: one file each, thin, and an extra each."""
