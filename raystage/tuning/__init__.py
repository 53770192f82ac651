"""The search for pacing: strategies that propose points, trials that are ordinary runs, Ray Tune that runs them side by side."""
