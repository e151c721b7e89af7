"""The loss that asks to recognise an image in two random augmentations of it."""

import keras
import tensorflow as tf

_TEMPERATURE = 0.2


@keras.saving.register_keras_serializable("imgsim")  # type: ignore[untyped-decorator] # Keras ships no types
def nt_xent(_: tf.Tensor, projections: tf.Tensor) -> tf.Tensor:
    """Return the normalised, temperature-scaled cross entropy (2 n,) of projections (2 n, d).

    Rows i and n + i are augmentations of the same image; all others are of other images. Source:
    Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020,
    equation 1.
    """
    rows = tf.math.l2_normalize(tf.cast(projections, tf.float32), axis=1)
    count = tf.shape(rows)[0]
    itself = tf.eye(count) * 1e9
    similarity = tf.matmul(rows, rows, transpose_b=True) / _TEMPERATURE - itself
    other = tf.math.floormod(tf.range(count) + count // 2, count)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(other, similarity)
