# SPDX-License-Identifier: Apache-2.0
"""Benches: how fast the gateway is beside others, on one machine, in one run; and usage.

    gateway    the parts of a run in their order, and its record
    ground     upstream, Redis, database: what all targets stand on
    market     the product, customers and keys that Nimbus is measured with; crowd: very many more
    targets    what is compared and how it starts; configs/: by which configuration
    parts      the programs of others, where they are and how they are got
    rounds     requests as fast as they are answered (load), interleaved
    latency    requests at a constant pace (openloop)
    memory     at rest, stalled, under load
    profile    where the gateway's own time goes (profiled)
    calm       again when something else used the machine; machine: who used what
    goals      what is asked; report: the record in words
    usage      calls stored, from call to number, numbers read (months: of a tenant with very many)

Nothing of it is used by the product; everything a bench starts ends with it.
"""
