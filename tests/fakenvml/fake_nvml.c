/* A fake libnvidia-ml.so.1: GPUs, processes and faults lie in a file that whoever tests may change.

   The file that FAKE_NVML_STATE names is mapped; fake.py mirrors its layout and starts it empty.
   The structs that cross the NVML interface are declared here after nvml.h (NVML 13); layout()
   tells sizes and offsets, so that a test can hold them against those of pynvml. */
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define MOST_GPUS 16
#define MOST_PROCESSES 8
#define MOST_FUNCTIONS 16

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15,
       VERSION_MISMATCH = 25 };

/* What can be asked of one GPU: each has its own injected result and its own count of calls. */
#define FUNCTIONS(F) \
  F(nvmlDeviceGetHandleByIndex_v2) F(nvmlDeviceGetName) F(nvmlDeviceGetUUID) \
  F(nvmlDeviceGetUtilizationRates) F(nvmlDeviceGetMemoryInfo) F(nvmlDeviceGetMemoryInfo_v2) \
  F(nvmlDeviceGetTemperature) F(nvmlDeviceGetPowerUsage) F(nvmlDeviceGetEnforcedPowerLimit) \
  F(nvmlDeviceGetCurrentClocksEventReasons) F(nvmlDeviceGetCurrentClocksThrottleReasons) \
  F(nvmlDeviceGetComputeRunningProcesses_v3)
#define ID(name) ID_##name,
#define NAME(name) #name,
enum { FUNCTIONS(ID) FUNCTION_COUNT };
static const char *const names[] = {FUNCTIONS(NAME) 0};

typedef struct { unsigned pid, unused; unsigned long long memory; } process_t;

typedef struct {
  unsigned long long total, used, reserved, reasons;
  unsigned utilization, temperature, power_mw, limit_mw;
  unsigned lost, absent, process_count, unused;
  process_t processes[MOST_PROCESSES];
  int results[MOST_FUNCTIONS];
  unsigned calls[MOST_FUNCTIONS];
} gpu_t;

typedef struct {
  unsigned gpu_count;
  int init_result, count_result;
  unsigned init_calls, shutdown_calls, started;
  unsigned delay_us; /* every call takes this long */
  unsigned hang;     /* every call waits until this is 0 again */
  unsigned waiting;  /* calls that wait now */
  unsigned unused;
  gpu_t gpus[MOST_GPUS];
} state_t;

/* nvml.h: nvmlUtilization_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlProcessInfo_t (as of v2). */
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned pid; unsigned long long usedGpuMemory;
                 unsigned gpuInstanceId, computeInstanceId; } process_info_t;

static state_t *state;
static int dead[MOST_GPUS]; /* handles of before a loss stay dead until NVML is started anew */

__attribute__((constructor)) static void attach(void) {
  const char *path = getenv("FAKE_NVML_STATE");
  int file = path ? open(path, O_RDWR) : -1;
  state = mmap(0, sizeof *state, PROT_READ | PROT_WRITE, file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS
               : MAP_SHARED, file, 0);
  if (state == MAP_FAILED) abort();
  if (file >= 0) close(file);
}

static void take_time(void) {
  if (state->delay_us) usleep(state->delay_us);
  if (!__atomic_load_n(&state->hang, __ATOMIC_SEQ_CST)) return;
  __atomic_add_fetch(&state->waiting, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&state->hang, __ATOMIC_SEQ_CST)) usleep(1000);
  __atomic_sub_fetch(&state->waiting, 1, __ATOMIC_SEQ_CST);
}

static int asked(unsigned slot, int function, gpu_t **gpu) {
  take_time();
  if (!state->started) return UNINITIALIZED;
  if (slot >= state->gpu_count) return INVALID_ARGUMENT;
  *gpu = &state->gpus[slot];
  (*gpu)->calls[function]++;
  if ((*gpu)->lost) dead[slot] = 1;
  return dead[slot] ? GPU_IS_LOST : (*gpu)->results[function];
}

#define SLOT(device) ((unsigned)((size_t)(device)) - 1)
#define ASK(function) \
  gpu_t *gpu; int result = asked(SLOT(device), ID_##function, &gpu); if (result) return result
#define NUMBER(function, type, value) \
  PUBLIC int function(void *device, type *out) { ASK(function); *out = (value); return OK; }

PUBLIC int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  state->init_calls++;
  take_time();
  if (state->init_result) return state->init_result;
  if (!state->started++) memset(dead, 0, sizeof dead);
  return OK;
}
PUBLIC int nvmlShutdown(void) {
  take_time();
  if (!state->started) return UNINITIALIZED;
  state->shutdown_calls++;
  state->started--;
  return OK;
}
PUBLIC const char *nvmlErrorString(int result) {
  switch (result) {
    case 1: return "Uninitialized";
    case 2: return "Invalid Argument";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 7: return "Insufficient Size";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
  }
}
PUBLIC int nvmlDeviceGetCount_v2(unsigned *count) {
  take_time();
  if (!state->started) return UNINITIALIZED;
  if (state->count_result) return state->count_result;
  *count = 0;
  for (unsigned slot = 0; slot < state->gpu_count; slot++) *count += !state->gpus[slot].absent;
  return OK;
}
PUBLIC int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  unsigned slot = 0;
  for (; slot < state->gpu_count; slot++)
    if (!state->gpus[slot].absent && !index--) break;
  gpu_t *gpu;
  int result = asked(slot, ID_nvmlDeviceGetHandleByIndex_v2, &gpu);
  if (!result) *device = (void *)((size_t)slot + 1);
  return result;
}
PUBLIC int nvmlDeviceGetName(void *device, char *out, unsigned size) {
  ASK(nvmlDeviceGetName);
  return snprintf(out, size, "NVIDIA H100 80GB HBM3") < (int)size ? OK : INSUFFICIENT_SIZE;
}
PUBLIC int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
  ASK(nvmlDeviceGetUUID);
  return snprintf(out, size, "GPU-%08x-0000-0000-0000-000000000000", SLOT(device)) < (int)size
             ? OK : INSUFFICIENT_SIZE;
}
PUBLIC int nvmlDeviceGetUtilizationRates(void *device, utilization_t *out) {
  ASK(nvmlDeviceGetUtilizationRates);
  *out = (utilization_t){gpu->utilization, 0};
  return OK;
}
PUBLIC int nvmlDeviceGetMemoryInfo(void *device, memory_t *out) {
  ASK(nvmlDeviceGetMemoryInfo);
  unsigned long long used = gpu->used + gpu->reserved;
  *out = (memory_t){gpu->total, gpu->total - used, used};
  return OK;
}
PUBLIC int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *out) {
  ASK(nvmlDeviceGetMemoryInfo_v2);
  if (out->version != (sizeof *out | 2u << 24)) return VERSION_MISMATCH;
  out->total = gpu->total;
  out->reserved = gpu->reserved;
  out->used = gpu->used;
  out->free = gpu->total - gpu->reserved - gpu->used;
  return OK;
}
PUBLIC int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) {
  ASK(nvmlDeviceGetTemperature);
  if (sensor) return INVALID_ARGUMENT;
  *out = gpu->temperature;
  return OK;
}
NUMBER(nvmlDeviceGetPowerUsage, unsigned, gpu->power_mw)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, gpu->limit_mw)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, gpu->reasons)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, gpu->reasons)
PUBLIC int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count,
                                                   process_info_t *out) {
  ASK(nvmlDeviceGetComputeRunningProcesses_v3);
  unsigned room = *count;
  *count = gpu->process_count;
  if (*count > room) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < *count; i++)
    out[i] = (process_info_t){gpu->processes[i].pid, gpu->processes[i].memory, ~0u, ~0u};
  return OK;
}

/* What only tests ask for. */
PUBLIC const char *function_name(unsigned index) {
  return index < FUNCTION_COUNT ? names[index] : 0;
}
PUBLIC unsigned layout(const char *what) {
#define SIZE(type) if (!strcmp(what, #type)) return sizeof(type);
#define PLACE(type, field) if (!strcmp(what, #type "." #field)) return offsetof(type, field);
  SIZE(state_t) SIZE(gpu_t) SIZE(process_t) PLACE(state_t, gpus)
  PLACE(gpu_t, processes) PLACE(gpu_t, results) PLACE(gpu_t, calls)
  SIZE(utilization_t) PLACE(utilization_t, gpu) PLACE(utilization_t, memory)
  SIZE(memory_t) PLACE(memory_t, total) PLACE(memory_t, free) PLACE(memory_t, used)
  SIZE(memory_v2_t) PLACE(memory_v2_t, version) PLACE(memory_v2_t, total)
  PLACE(memory_v2_t, reserved) PLACE(memory_v2_t, free) PLACE(memory_v2_t, used)
  SIZE(process_info_t) PLACE(process_info_t, pid) PLACE(process_info_t, usedGpuMemory)
  PLACE(process_info_t, gpuInstanceId) PLACE(process_info_t, computeInstanceId)
  return ~0u;
}
