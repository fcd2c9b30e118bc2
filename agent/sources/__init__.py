"""Where frames come from. Each source implements ``agent.ports.Source`` and knows nothing of models or results."""
