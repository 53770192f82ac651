"""One step, the loop around it, and the state between them; knows neither Ray nor MLflow."""
