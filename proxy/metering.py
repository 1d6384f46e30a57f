"""From what an answer has told to the usage that is settled and audited."""

from proxy.model import Usage
from proxy.providers import Call, Tally
from proxy.providers._call import OUTPUT_BYTES_PER_TOKEN


def estimated_output_tokens(tally: Tally) -> int:
    """Tokens of the output seen, from its length."""
    return -(-tally.text_bytes // OUTPUT_BYTES_PER_TOKEN)


def usage_of(call: Call, tally: Tally) -> Usage:
    """Usage in OpenTelemetry terms. What the provider did not report is estimated, and the whole marked `estimated`.

    A report of nothing for a call that had input, or for an answer that had text, counts as no report; cached and
    reasoning tokens beyond their totals are cut down to them.
    """
    taken, given = tally.input_tokens, tally.output_tokens
    no_input = not taken and call.input_tokens > 0
    no_output = given is None or (given == 0 and tally.text_bytes > 0)
    # Until an end was seen, a reported count is only the count so far (Anthropic starts with 1).
    cut_short = not tally.ended and not tally.finishes
    if no_input:
        taken = call.input_tokens
    if no_output or cut_short:
        given = max(given or 0, estimated_output_tokens(tally))
    taken, given = taken or 0, given or 0
    read = min(tally.cache_read_input_tokens, taken)
    return Usage(
        provider=call.provider.name,
        operation=call.provider.operation,
        request_model=call.model,
        response_model=tally.model,
        input_tokens=taken,
        output_tokens=given,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=min(tally.cache_creation_input_tokens, taken - read),
        reasoning_tokens=min(tally.reasoning_tokens, given),
        estimated=no_input or no_output or cut_short,
    )
