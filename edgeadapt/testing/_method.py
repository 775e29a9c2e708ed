"""The two entry points of the method suite. They import torch when they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeadapt.host.contracts import Method


def check_method(method: Method, *, features: int = 24, taps: int = 6, slots: int = 5) -> None:
    """Check that a method does what its roles promise, on a separable toy, and that every role
    function compiles.

    A head is checked with its own logits; other methods read the class means, logits and residuals
    of ``Ridge`` and ``ResidualShift``, which stand beside them as in a bundle. A method that adapts
    an encoder has an attribute ``encoder``; it is tried on random images and ``features`` and
    ``taps`` are the encoder's.

    =========  ====================================================================================
    specs      names, shapes, kinds and class axes agree; ``factory`` fills exactly what is not
               derived, finite, always the same
    learn      adds evidence: whatever the order, whatever the state; a negative weight forgets;
               weight 0 changes nothing; a label touches its own slot
    predict    after learning, held-out accuracy is far above chance; a class that was forgotten or
               never taught is not predicted
    novelty    far samples score above known ones (AUROC > .9); a class that was learned stops being
               novel
    shift      about mean 0 and variance 1 on clean data, large when conditions changed, small on
               windows of one class
    correct    the identity in the factory state; after ``adapt`` a shifted mean is nearer to the
               source, after ``fit`` the head is right
    adjust     the identity in the factory state; after ``adapt`` answers are surer of the right
               class where the classes moved
    adapt      weight 0 changes nothing, ``used`` are rows with weight, clean data stay where they
               are
    fit        50 steps halve the loss; weight 0 changes nothing
    refold     the factory statistics give the encoder's own constants; adapted ones bring a shifted
               feature mean nearer, or, if the method says ``brings_home = False``, only move it
    smooth     rows of weight 0 pull no other, a sure answer stays, an unsure one follows the
               samples that are like it
    =========  ====================================================================================

    Signatures, ``t`` being the tensors by name: ``learn(t, z, taps, y, sample_weight) -> new``,
    ``predict(t, z)``, ``novelty(t, z, taps, logits)``, ``shift(t, z, taps, logits)``, ``correct(t,
    z)``, ``adjust(t, z, logits)``, ``smooth(t, z, logits, sample_weight)``, ``adapt(t, z,
    sample_weight) -> (outputs, new)``, ``fit(t, z, y, sample_weight, learning_rate) -> (outputs,
    new)``; with an encoder ``adapt(ports, t)`` and ``refold(ports, t)``.

    Args:
        method: an instance of a method class.
        features: width D of the toy features.
        taps: width T of its taps, may be 0.
        slots: class slots K, at least 4 and at most D.

    Raises:
        AssertionError: names the method, the function and the property that does not hold.
    """
    from edgeadapt.testing._suite import run_suite

    run_suite(method, features=features, taps=taps, slots=slots)


def check_identity_stub(
    method: Method, *, features: int = 24, taps: int = 6, slots: int = 5
) -> tuple[str, ...]:
    """Check that :func:`check_method` passes the method and fails it when a core function is
    replaced by a stub that does nothing.

    A suite that a stub can pass checks nothing. Each of the functions of the table above that the
    method has is replaced, one at a time, by stubs with the right shapes: one that changes nothing,
    returns its input or a constant, and some that are wrong in a way that was seen in practice.

    Returns:
        Function and stub, for every stub that was found out.

    Raises:
        AssertionError: the method itself fails, or names the function whose stub was not noticed.
    """
    from edgeadapt.testing._stubs import stubs_of
    from edgeadapt.testing._suite import run_suite

    run_suite(method, features=features, taps=taps, slots=slots)
    found = []
    for label, stubbed in stubs_of(method):
        try:
            run_suite(stubbed, features=features, taps=taps, slots=slots)
        except AssertionError:
            found.append(label)
        else:
            raise AssertionError(f"{method.name}: check_method passes although {label}")
    return tuple(found)


__all__ = ["check_identity_stub", "check_method"]
