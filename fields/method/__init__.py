"""The sampling plan and the mathematics of a step: routing, query, rollout, states, objective."""
