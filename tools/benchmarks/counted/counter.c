/* Counts the bytes that a process holds in large blocks, which are its tensors: preloaded, it stands between the program and
   glibc's allocator.

   Memory that is asked for and never touched counts too, and what glibc keeps after a release does not: these are the bytes
   that torch.cuda.max_memory_allocated counts on a GPU. */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static const long SMALLEST = 1 << 16; /* smaller blocks are Python's and the libraries' */
static atomic_long held, peak;

long held_bytes(void) { return atomic_load(&held); }
long peak_bytes(void) { return atomic_load(&peak); }
void forget_peak(void) { atomic_store(&peak, atomic_load(&held)); }

static long counted(void *memory) {
    long size = memory ? (long)malloc_usable_size(memory) : 0;
    return size < SMALLEST ? 0 : size;
}

static void *taken(void *memory) {
    long size = counted(memory);
    if (size) {
        long now = atomic_fetch_add(&held, size) + size, highest = atomic_load(&peak);
        while (now > highest && !atomic_compare_exchange_weak(&peak, &highest, now)) {
        }
    }
    return memory;
}

void *malloc(size_t size) { return taken(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return taken(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }

int posix_memalign(void **memory, size_t alignment, size_t size) {
    void *found = taken(__libc_memalign(alignment, size));
    if (!found) return ENOMEM;
    *memory = found;
    return 0;
}

void *realloc(void *memory, size_t size) {
    long before = counted(memory);
    void *moved = __libc_realloc(memory, size);
    if (moved || !size) {
        atomic_fetch_sub(&held, before);
        taken(moved);
    }
    return moved;
}

void free(void *memory) {
    atomic_fetch_sub(&held, counted(memory));
    __libc_free(memory);
}
