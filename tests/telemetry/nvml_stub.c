/* A driver library small enough to read, for tests of the real pynvml against drivers that have, lack or lose counters.
 *
 * -DOLD_DRIVER leaves out what drivers before Hopper lack. Environment: STUB_INIT and STUB_LOST hold an nvmlReturn that nvmlInit, or
 * every device call, gives from then on; STUB_REFUSE names one counter that is "not supported".
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3 };
static int samples = 0, ticks = 0;

static int code(const char *name) { const char *v = getenv(name); return v && *v ? atoi(v) : OK; }
static int asked(const char *counter) {
    const char *refused = getenv("STUB_REFUSE");
    if (code("STUB_LOST")) return code("STUB_LOST");
    return refused && strcmp(refused, counter) == 0 ? NOT_SUPPORTED : OK;
}
#define ASK(counter) do { int rc = asked(counter); if (rc) return rc; } while (0)

int stub_samples(void) { return samples; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return code("STUB_INIT"); }
int nvmlShutdown(void) { return code("STUB_LOST"); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(uintptr_t)(index + 1); return index < 2 ? OK : 6; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) { *handle = (void *)2; return strcmp(uuid, "GPU-second") && strcmp(uuid, "MIG-slice") ? 6 : OK; }
int nvmlDeviceGetName(void *h, char *name, unsigned n) { strncpy(name, h == (void *)2 ? "Stub B" : "Stub A", n); return OK; }
int nvmlSystemGetDriverVersion(char *name, unsigned n) { strncpy(name, "600.1", n); return OK; }
int nvmlDeviceGetUtilizationRates(void *h, unsigned *rates) { (void)h; ASK("utilization"); rates[0] = 90; rates[1] = 40; return OK; }
int nvmlDeviceGetMemoryInfo(void *h, uint64_t *m) { (void)h; ASK("memory"); m[0] = 80000; m[1] = 50000; m[2] = 30000; return OK; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, uint64_t *mj) { (void)h; ASK("energy"); *mj = 5000 + 1000 * ticks++; return OK; }
int nvmlDeviceGetClockInfo(void *h, int kind, unsigned *mhz) { (void)h; ASK("clock"); *mhz = kind == 1 ? 1980 : 3201; return OK; }
int nvmlDeviceGetMaxClockInfo(void *h, int kind, unsigned *mhz) { (void)h; *mhz = kind == 1 ? 2100 : 3300; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *mw) { (void)h; *mw = 700000; return OK; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { (void)h; ASK("power"); *mw = 300000; return OK; }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *c) { (void)h; (void)sensor; ASK("temperature"); *c = 55; return OK; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, uint64_t *r) { (void)h; ASK("throttle"); *r = 4; return OK; }
int nvmlDeviceGetPcieThroughput(void *h, int counter, unsigned *kb) { (void)h; ASK("pcie"); *kb = counter ? 20 : 10; return OK; }

typedef struct { uint32_t pid; uint64_t used; uint32_t gi, ci; } process_t;
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *count, process_t *list) {
    (void)h;
    ASK("processes");
    if (*count < 1) { *count = 1; return 7; }
    *count = 1;
    memset(list, 0, sizeof *list);
    list->pid = 4242;
    list->used = 1234;
    return OK;
}

typedef struct { uint32_t field, scope; int64_t at, latency; int type, rc; union { double d; uint64_t u; } value; } field_t;
int nvmlDeviceGetFieldValues(void *h, int n, field_t *values) {
    (void)h;
    ASK("fields");
    for (int i = 0; i < n; i++) {
#ifdef OLD_DRIVER
        values[i].rc = NOT_SUPPORTED;
#else
        values[i].rc = OK;
        values[i].type = 3;
        values[i].value.u = values[i].field == 186 ? 650000 : 1000000 * (uint64_t)(++ticks);
#endif
    }
    return OK;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetTemperatureV(void *h, unsigned *t) { (void)h; ASK("temperature"); t[2] = 61; return OK; }
int nvmlDeviceGetCurrentClocksEventReasons(void *h, uint64_t *r) { (void)h; ASK("throttle"); *r = 32; return OK; }
int nvmlGpmQueryDeviceSupport(void *h, unsigned *s) { (void)h; s[1] = asked("gpm") == OK; return OK; }
int nvmlGpmSampleAlloc(void **s) { samples++; *s = malloc(16); return OK; }
int nvmlGpmSampleFree(void *s) { samples--; free(s); return OK; }
int nvmlGpmSampleGet(void *h, void *s) { (void)h; ASK("gpm"); *(int *)s = ticks++; return OK; }
typedef struct { unsigned id; int rc; double value; struct { char *a, *b, *c; } info; } metric_t;
typedef struct { unsigned version, n; int *older, *newer; metric_t metrics[]; } metrics_t;
int nvmlGpmMetricsGet(metrics_t *m) {
    if (*m->newer <= *m->older) return 2; /* the samples were handed over in the wrong order */
    for (unsigned i = 0; i < m->n; i++) {
        m->metrics[i].rc = m->metrics[i].id == 3 ? NOT_SUPPORTED : OK;
        m->metrics[i].value = m->metrics[i].id * 10.0;
    }
    return OK;
}
#endif
