"""What answers say about accuracy in the field: measured by those to questions drawn at random, one
condition at a time.

    e_n = e_(n-1) * q_n(wrong_n) / p(wrong_n)        q_n: the error that the answers before say, at
    least p; p = held-out error + margin

is a bet against "the error is at most p". It is a non-negative supermartingale while that holds, so
that it ever exceeds 1 / alpha
with probability alpha at most, however often it is tested (Ville's inequality; Waudby-Smith and
Ramdas, JRSS B 2024,
arXiv 2010.09686). Answers to questions that were chosen for their doubt are wrong more often than
the stream, and bet on nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeadapt.bundle.schema import PolicySpec
from edgeadapt.device.detection.accuracy_estimate import wilson
from edgeadapt.device.storage.rows import AskedSample, FieldAnswer
from edgeadapt.results import AccuracyEstimate

_OPEN = 10_000  # questions whose answer may still come
_ALPHA = 0.01  # chance of a false alarm, of a stream in one condition
_PRIOR = 2.0  # answers that the expected error weighs before any came
_RECENT = 10  # answers by which recovery is judged
_LOOKED_AT_AGAIN = 20  # answers from which on those that bring nothing end the asking
_PLACES = 1024  # conditions of streams
_KEPT = 100  # answers per condition


@dataclass(frozen=True)
class Answers:
    """Answers to random questions about one condition of one stream, and the bet that their error
    is no larger than expected."""

    right: tuple[bool, ...] = ()
    wealth: float = 1.0

    def extended(self, is_right: bool, expected_error: float) -> Answers:
        """One answer more. ``expected_error``: p, 0 to 1."""
        wrong = len(self.right) - sum(self.right)
        bet = min(
            0.99,
            max(
                expected_error,
                (wrong + _PRIOR * expected_error + 0.5) / (len(self.right) + _PRIOR + 1.0),
            ),
        )
        factor = (1.0 - bet) / (1.0 - expected_error) if is_right else bet / expected_error
        return Answers((*self.right, is_right)[-_KEPT:], self.wealth * factor)

    @property
    def has_fallen(self) -> bool:
        """Wrong more often than the expected error explains."""
        return self.wealth >= 1.0 / _ALPHA

    def needs_more(self, held_out: float, margin: float) -> bool:
        """The newest answers are not right often enough, and better than those before them if there
        are many."""
        recent = self.right[-_RECENT:]
        if (
            not recent
            or (sum(recent) + _PRIOR * held_out) / (len(recent) + _PRIOR) >= held_out - margin
        ):
            return False
        before = self.right[-2 * _RECENT : -_RECENT]
        return len(self.right) < _LOOKED_AT_AGAIN or sum(recent) > sum(before)


class FieldAccuracy:
    """Who was asked what, and what the answers say. Runs on the worker, read from any thread.

    The answers are in the journal, and are told again when a learner is opened; a bet begins anew.
    """

    def __init__(self, policy: PolicySpec, earlier: Sequence[FieldAnswer] = ()) -> None:
        self._policy = policy
        self._asked: OrderedDict[str, AskedSample] = OrderedDict()
        self._answers: OrderedDict[tuple[str, str], Answers] = (
            OrderedDict()
        )  # the least recently answered first
        for one in earlier:
            if one.is_random:
                known = self.of(one.stream, one.domain)
                kept = Answers((*known.right, one.is_right)[-_KEPT:])
                self._answers[one.stream, one.domain] = kept
                self._answers.move_to_end((one.stream, one.domain))

    @property
    def held_out(self) -> float:
        """Accuracy that is expected: the factory's on its held-out samples."""
        known = self._policy.accuracy
        return known.accuracy if known.samples else 1.0 - self._policy.guard.source_error

    def asked(
        self, sample: str, stream: str, domain: str, predicted: str, *, is_random: bool
    ) -> None:
        """A question about a sample that was predicted as a class; drawn at random, or chosen."""
        self._asked[sample] = AskedSample(sample, stream, domain, predicted, is_random)
        while len(self._asked) > _OPEN:
            self._asked.popitem(last=False)

    def open_among(self, samples: Sequence[str]) -> list[AskedSample]:
        """Questions about these samples that have no answer yet."""
        return [found for found in map(self._asked.get, samples) if found is not None]

    def answered(self, sample: str, label: str) -> None:
        """A label came; one that nobody asked for says nothing here."""
        question = self._asked.pop(sample, None)
        if question is None or not question.is_random:
            return
        key = (question.stream, question.domain)
        expected = min(0.95, 1.0 - self.held_out + self._policy.accuracy.margin)
        self._answers[key] = self.of(*key).extended(question.predicted == label, expected)
        self._answers.move_to_end(key)
        if len(self._answers) > _PLACES:
            self._answers.popitem(last=False)

    def of(self, stream: str, domain: str) -> Answers:
        """Answers about a condition of a stream."""
        return self._answers.get((stream, domain), Answers())

    def restart(self, stream: str, domain: str) -> None:
        """The condition has recovered: the bet starts again."""
        if (stream, domain) in self._answers:
            self._answers[stream, domain] = replace(self._answers[stream, domain], wealth=1.0)

    def limit(self, stream: str, domain: str) -> int:
        """Questions there may be about a condition: the usual number, or more while answers say
        that it has not recovered. A bundle that does not say how right it was has nothing to
        recover to."""
        ask = self._policy.ask
        if not self._policy.accuracy.samples:
            return ask.per_condition
        if self.of(stream, domain).needs_more(self.held_out, self._policy.accuracy.margin):
            return max(ask.per_condition, ask.at_most)
        return ask.per_condition

    def measured(self) -> dict[str, AccuracyEstimate]:
        """Accuracy per condition over all streams, from the last answers to random questions;
        conditions without one are left out."""
        found: dict[str, list[Answers]] = {}
        for (_, domain), answers in list(self._answers.items()):
            found.setdefault(domain, []).append(answers)
        return {
            domain: self._estimate(answers)
            for domain, answers in found.items()
            if any(a.right for a in answers)
        }

    def _estimate(self, answers: list[Answers]) -> AccuracyEstimate:
        right = [is_right for of_stream in answers for is_right in of_stream.right]
        value = sum(right) / len(right)
        return AccuracyEstimate(
            value,
            *wilson(value, len(right)),
            len(right),
            self.held_out,
            any(a.has_fallen for a in answers),
        )


__all__ = ["Answers", "FieldAccuracy"]
