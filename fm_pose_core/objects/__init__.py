"""6D object pose from one RGB image: from rendering and photographs to the estimator and its evaluation."""
