"""Train an encoder with Keras: the only room that imports TensorFlow."""
