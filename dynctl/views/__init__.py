"""The records that verbs print, as typed values, a file for each noun: `dynctl schema` is made from
these classes (`catalogue`).

A document has `schema_version`; fields are only ever added. Bytes that are not UTF-8 are
`{"base64": …}`; tokens and 64-bit counters are strings, because JSON readers round them. What a
mechanism that does not exist yet would tell is null, false or 0, as its field says.
"""
