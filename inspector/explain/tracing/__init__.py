"""Run a network and watch what it does: tensor calls, module outputs, receptive fields."""
