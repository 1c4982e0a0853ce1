"""What the verbs do, one module per verb; imported by `domainvl.cli` when its verb is asked for."""
