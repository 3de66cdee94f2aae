"""Hand joints from one depth map: from the hand model and depth maps to the estimator and its evaluation."""
