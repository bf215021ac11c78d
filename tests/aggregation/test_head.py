"""What never changes the result of a class: padding, chunks, company in the batch, order."""

import numpy as np

from opvseg_jax.aggregation.head import DROPPED

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def test_chunks_of_classes_give_the_result_of_all_classes_at_once(head):
    np.testing.assert_allclose(head(class_chunk=3), head(), **CLOSE)  # 3, 3 and 1 of 7


def test_guidance_computed_once_per_image_equals_guidance_beside_every_class(head):
    np.testing.assert_allclose(head(shared_guidance=False), head(), **CLOSE)


def test_masked_classes_change_no_real_class(head):
    real = np.array([True, True, False, True, False, False, True])
    text = np.where(real[:, None, None], head.text, 7.0)
    alone = head(text=head.text[:, real])
    np.testing.assert_allclose(head(text=text, mask=real[None])[:, real], alone, **CLOSE)
    chunked = head(text=text, mask=real[None], class_chunk=3)
    np.testing.assert_allclose(chunked[:, real], alone, **CLOSE)


def test_rows_of_zeros_as_padding_leave_everything_finite(head):
    real = np.arange(7) < 3
    text = np.where(real[:, None, None], head.text, 0.0)
    assert np.isfinite(head(text=text, mask=real[None])).all()


def test_an_image_does_not_see_the_others_of_its_batch(head):
    twice = [np.repeat(x[1:], 2, axis=0) for x in (head.features, *head.pyramid)]
    np.testing.assert_allclose(
        head(features=twice[0], pyramid=tuple(twice[1:]))[1], head()[1], **CLOSE
    )


def test_classes_may_stand_in_any_order(head):
    order = np.array([3, 0, 5, 6, 1, 4, 2])
    np.testing.assert_allclose(head(text=head.text[:, order]), head()[:, order], **CLOSE)


def test_one_class_alone_is_possible(serial_head):
    assert serial_head(text=serial_head.text[:, :1]).shape == (2, 1, 16, 24)


def test_of_too_many_classes_only_the_best_of_each_image_are_kept(serial_head):
    logits = serial_head(class_limit=4)
    dropped = (logits == DROPPED).all(axis=(2, 3))
    assert (dropped.sum(axis=1) == 3).all()
    for image in range(2):
        kept = np.flatnonzero(~dropped[image])
        alone = serial_head(text=serial_head.text[:, kept], class_limit=4)
        np.testing.assert_allclose(logits[image, kept], alone[image], **CLOSE)


def test_masked_classes_never_take_the_place_of_real_ones(serial_head):
    real = np.arange(7) < 4
    logits = serial_head(class_limit=4, mask=real[None])
    alone = serial_head(text=serial_head.text[:, :4], class_limit=4)
    np.testing.assert_allclose(logits[:, :4], alone, **CLOSE)
    assert (logits[:, 4:] == DROPPED).all()
