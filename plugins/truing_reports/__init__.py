"""What commands of plugins share that report: options, JSON, and figures sent to MLflow. No plugin."""
