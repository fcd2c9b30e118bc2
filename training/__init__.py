"""Off-line training of weldwatch: recordings of welding to a pipeline bundle. TensorFlow lives here, and only here."""
