"""The method in pure PyTorch: what a velocity field is, how a state is reached, which expert answers, what is minimised.

One vocabulary and one direction of time, everywhere:

    t                in [0, 1]; t = 1 is pure noise, t = 0 is clean (the literature's sigma)
    x_t              (1 - t) x_0 + t eps                 the state on the straight path, float32
    velocity         dx/dt = eps - x_0                   what a field answers
    Euler step       x <- x + (t_next - t) velocity      with t_next < t: from noise to clean
    index            position on the rollout grid t_0 = 1 > t_1 > ... > t_N = 0; the query is at t_index, index < N
    policy_version   how many optimizer steps the student's weights have seen

A model family that uses another sign, scale or packing converts inside its adapter. No module here knows of Ray.
"""
