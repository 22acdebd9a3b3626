"""Carries out what the host orders, one order after the other."""

from __future__ import annotations

import asyncio
import socket

import msgspec

from pandastack.errors import InvalidRequest
from pandastack.host.egress.channel import Channel
from pandastack.host.egress.ground import Ground, ground_of
from pandastack.host.egress.ledger import DNS
from pandastack.host.egress.orders import (
    Answer,
    Attach,
    Begin,
    Change,
    Detach,
    Envelope,
    Order,
    Receipts,
    Report,
)
from pandastack.host.egress.slot import Slot, Told
from pandastack.host.egress.standing import Standing
from pandastack.host.egress.upstream import Chance
from pandastack.model.clock import Clock

SOCKETS = 3
REPORT_LIMIT = 1 << 20
"""Bytes of receipts that are told at once: whoever reads them has more to do."""


class Numbered(msgspec.Struct):
    """An order as far as it can be answered, whatever it is."""

    id: int
    descriptors: int


class Refusal(Exception):
    """An order that cannot be carried out; the message is a sentence."""


class Server:
    """All slots of this host, from the first order to the end of the channel."""

    def __init__(self, channel: Channel, clock: Clock, chance: Chance, tell: Told) -> None:
        self._channel = channel
        self._clock = clock
        self._chance = chance
        self._tell = tell
        self._ground: Ground | None = None
        self._slots: dict[int, tuple[Slot, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Until the host closes its end. ValueError when it does not speak as it should."""
        decoder = msgspec.json.Decoder(Envelope)
        async with asyncio.TaskGroup() as group:
            while message := await self._channel.receive():
                answer = await self._answer(message, decoder, group)
                await self._channel.send(fitting(answer))
            for _, task in self._slots.values():
                task.cancel()

    async def _answer(
        self, message: bytes, decoder: msgspec.json.Decoder[Envelope], group: asyncio.TaskGroup
    ) -> Answer:
        envelope = msgspec.json.decode(message, type=Numbered)
        sockets = self._channel.take(envelope.descriptors)
        try:
            receipts = await self._carry_out(decoder.decode(message).order, sockets, group)
        except msgspec.ValidationError:
            for each in sockets:
                each.close()
            return Answer(envelope.id, error="the order is not one that this process knows")
        except (Refusal, InvalidRequest) as refusal:
            for each in sockets:
                each.close()
            return Answer(envelope.id, error=str(refusal))
        return Answer(envelope.id, receipts=receipts)

    async def _carry_out(
        self, order: Order, sockets: list[socket.socket], group: asyncio.TaskGroup
    ) -> Receipts | None:
        match order:
            case Begin():
                self._begin(order)
            case Attach():
                await self._attach(order, sockets, group)
            case Change():
                await self._slot(order.slot).change(order.egress, order.secrets)
            case Detach():
                await self._detach(order.slot)
            case Report():
                return self._slot(order.slot).receipts()
        return None

    def _begin(self, order: Begin) -> None:
        if self._slots:
            raise Refusal("slots are attached already, and stand on what was told at first")
        try:
            self._ground = ground_of(order, self._clock, self._chance)
        except (ValueError, OSError) as error:
            raise Refusal("the certificates of the egress process cannot be read") from error

    async def _attach(self, order: Attach, sockets: list[socket.socket], group: asyncio.TaskGroup) -> None:
        if self._ground is None or len(sockets) != SOCKETS:
            raise Refusal("a slot is attached after `begin`, with three sockets")
        await self._detach(order.slot)
        standing = Standing(self._ground, order.egress, order.secrets)
        slot = Slot(order.vm, standing, sockets, self._tell)
        self._slots[order.slot] = (slot, group.create_task(slot.serve()))

    async def _detach(self, number: int) -> None:
        found = self._slots.pop(number, None)
        if found:
            found[1].cancel()
            await asyncio.wait([found[1]])

    def _slot(self, number: int) -> Slot:
        if number not in self._slots:
            raise Refusal(f"slot {number} is not attached")
        return self._slots[number][0]


def fitting(answer: Answer) -> bytes:
    """The answer as bytes. Receipts that do not fit lose the names, then questions, then their older half."""
    data = msgspec.json.encode(answer)
    for fewer in (_without_names, _without_questions, *[_newer_half] * 20):
        if len(data) <= REPORT_LIMIT or answer.receipts is None:
            break
        answer = msgspec.structs.replace(answer, receipts=fewer(answer.receipts))
        data = msgspec.json.encode(answer)
    return data


def _without_names(receipts: Receipts) -> Receipts:
    return msgspec.structs.replace(receipts, names={})


def _without_questions(receipts: Receipts) -> Receipts:
    flows = tuple(each for each in receipts.receipts if each.protocol != DNS)
    return msgspec.structs.replace(receipts, receipts=flows)


def _newer_half(receipts: Receipts) -> Receipts:
    return msgspec.structs.replace(receipts, receipts=receipts.receipts[len(receipts.receipts) // 2 :])
