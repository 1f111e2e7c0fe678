# SPDX-License-Identifier: Apache-2.0
"""Signs of abuse: guessed keys, scanned paths, a key from everywhere."""

from ipaddress import ip_address
from uuid import UUID

from nimbus.rules.abuse import (
    ADDRESSES_OF_A_KEY,
    MAX_SUBJECTS,
    PERIOD,
    REFUSED_KEYS,
    UNKNOWN_PATHS,
    Watch,
    network_of,
)

HOME = ip_address("192.0.2.7")
KEY = UUID(int=1)


def guess(watch: Watch, number: int, now: int = 0) -> list[str]:
    signs = [watch.refused_key(HOME, b"%d" % each, now) for each in range(number)]
    return [sign.kind for sign in signs if sign]


def test_many_refused_keys_of_one_address_are_a_sign_once() -> None:
    watch = Watch()
    assert guess(watch, REFUSED_KEYS - 1) == []
    assert not watch.suspects(HOME, 0)
    assert guess(watch, 3 * REFUSED_KEYS) == ["refused_keys"]
    assert watch.suspects(HOME, 1) == PERIOD - 1


def test_one_wrong_key_however_often_is_none() -> None:
    watch = Watch()
    assert [watch.refused_key(HOME, b"old", now) for now in range(10_000)] == [None] * 10_000
    assert not watch.suspects(HOME, 0)


def test_a_suspicion_ends_with_its_period_and_may_come_again() -> None:
    watch = Watch()
    guess(watch, REFUSED_KEYS)
    assert not watch.suspects(HOME, PERIOD)
    assert guess(watch, REFUSED_KEYS, PERIOD) == ["refused_keys"]


def test_many_unknown_paths_are_a_sign() -> None:
    watch = Watch()
    signs = [watch.unknown_path(HOME, b"/%d" % each, 0) for each in range(2 * UNKNOWN_PATHS)]
    [sign] = [sign for sign in signs if sign]
    assert (sign.kind, sign.network, sign.count) == ("path_scan", network_of(HOME), UNKNOWN_PATHS)
    assert watch.suspects(HOME, 0)


def test_a_key_from_many_addresses_is_a_sign_and_suspects_no_address() -> None:
    watch = Watch()
    addresses = [ip_address(0x0A000000 + each) for each in range(2 * ADDRESSES_OF_A_KEY)]
    signs = [sign for each in addresses if (sign := watch.used_key(KEY, each, 0))]
    assert [(sign.kind, sign.key_id) for sign in signs] == [("many_addresses", KEY)]
    assert not any(watch.suspects(each, 0) for each in addresses)


def test_a_customer_of_ipv6_is_its_64() -> None:
    watch = Watch()
    for each in range(REFUSED_KEYS):
        watch.refused_key(ip_address((0x20010DB8 << 96) + each), b"%d" % each, 0)
    assert watch.suspects(ip_address("2001:db8::ffff"), 0)
    assert not watch.suspects(ip_address("2001:db8:0:1::"), 0)


def test_a_flood_of_addresses_does_not_grow_what_is_kept() -> None:
    watch = Watch()
    for each in range(3 * MAX_SUBJECTS):
        watch.refused_key(ip_address(each), b"k", 0)
        watch.used_key(UUID(int=each), HOME, 0)
    assert len(watch._addresses) == len(watch._keys) == MAX_SUBJECTS
