#include "lg.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const char *const names[FAILURES] = {"connect", "tunnel", "tls", "closed", "status", "protocol", "deadline"};

uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void sample(struct samples *s, uint64_t ns)
{
	if (s->n == s->room) {
		s->room = s->room ? 2 * s->room : 4096;
		s->ns = realloc(s->ns, s->room * sizeof *s->ns);
		if (!s->ns)
			abort();
	}
	s->ns[s->n++] = ns;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static double percentile_us(const struct samples *s, double p)
{
	return s->n ? (double)s->ns[(size_t)(p * (double)(s->n - 1) + 0.5)] / 1e3 : 0;
}

static void distribution(const char *name, struct samples *s)
{
	double sum = 0;
	if (!s->n) {
		printf(", \"%s\": null", name);
		return;
	}
	qsort(s->ns, s->n, sizeof *s->ns, ascending);
	for (size_t i = 0; i < s->n; i++)
		sum += (double)s->ns[i] / 1e3;
	printf(", \"%s\": {\"n\": %zu, \"mean\": %.1f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f}", name, s->n,
	       sum / (double)s->n, percentile_us(s, .5), percentile_us(s, .9), percentile_us(s, .99), percentile_us(s, 1));
}

void report(struct stats *t, double elapsed_s, int stream)
{
	uint64_t failed = 0;
	for (int i = 0; i < FAILURES; i++)
		failed += t->failures[i];
	printf("{\"requests\": %llu, \"failed\": %llu, \"seconds\": %.4f, \"requests_per_s\": %.1f, \"handshakes\": %llu, "
	       "\"payload_bytes\": %llu, \"other_status\": %d",
	       (unsigned long long)t->requests, (unsigned long long)failed, elapsed_s, (double)t->requests / elapsed_s,
	       (unsigned long long)t->handshakes, (unsigned long long)t->payload_bytes, t->other_status);
	printf(", \"failures\": {");
	for (int i = 0, any = 0; i < FAILURES; i++)
		if (t->failures[i])
			printf("%s\"%s\": %llu", any++ ? ", " : "", names[i], (unsigned long long)t->failures[i]);
	printf("}");
	distribution("latency_us", &t->latency);
	if (stream) {
		distribution("first_event_us", &t->first_event);
		printf(", \"events\": %llu, \"events_per_s\": %.1f", (unsigned long long)t->events, (double)t->events / elapsed_s);
	}
	printf("}\n");
	fflush(stdout);
}
