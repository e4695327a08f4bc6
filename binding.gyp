{
  'targets': [
    {
      'target_name': 'node_kvm',
      'conditions': [
        ['OS!="linux" or target_arch!="x64"', { 'type': 'none' }, {
          'dependencies': ['<!(node -p "require(\'node-addon-api\').targets"):node_addon_api_except'],
          'defines': [
            'NAPI_VERSION=9',
            'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
            '_GNU_SOURCE',
          ],
          'sources': [
            'native/addon.cc',
            'native/args.cc',
            'native/async.cc',
            'native/bounce.cc',
            'native/core.cc',
            'native/device.cc',
            'native/encrypt.cc',
            'native/error.cc',
            'native/eventfd.cc',
            'native/gate.cc',
            'native/guest_memfd.cc',
            'native/handle.cc',
            'native/host_memory.cc',
            'native/kick_signal.cc',
            'native/layout.cc',
            'native/mapping.cc',
            'native/memory_file.cc',
            'native/readable.cc',
            'native/requests.cc',
            'native/retired.cc',
            'native/system.cc',
            'native/tracked_buffers.cc',
            'native/vcpu.cc',
            'native/vcpu_core.cc',
            'native/vcpu_thread.cc',
            'native/vm.cc',
            'native/vm_core.cc',
            'native/vm_memory.cc',
            'native/watchdog.cc',
          ],
          'cflags': ['-fvisibility=hidden', '-Wall', '-Wextra'],
          'cflags_cc!': ['-std=gnu++14', '-std=gnu++17', '-fno-rtti'],
          'cflags_cc': ['-std=gnu++20', '-fvisibility-inlines-hidden', '-Wno-missing-field-initializers'],
          # Threads and a signal handler of the addon may outlive the last environment that loaded it.
          'ldflags': ['-Wl,-z,nodelete', '-Wl,-z,now'],
          'configurations': {
            'Release': { 'cflags': ['-O2'] },
          },
          # The builds of the tests (scripts/build-addon.mjs --build), each with the checks of the standard library.
          'variables': { 'build%': '<!(node -p "process.env.NODE_KVM_BUILD || \'\'")' },
          'conditions': [
            ['build!=""', {
              'defines': ['_GLIBCXX_ASSERTIONS'],
              'cflags': ['-g', '-fno-omit-frame-pointer'],
            }],
            ['build=="asan"', {
              'cflags': ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'],
              'ldflags': ['-fsanitize=address,undefined'],
            }],
            ['build=="tsan"', {
              'cflags': ['-fsanitize=thread'],
              'ldflags': ['-fsanitize=thread'],
            }],
            ['build=="debug"', {
              'cflags': ['-O1', '--coverage', '-fprofile-update=atomic'],
              'ldflags': ['--coverage'],
            }],
          ],
        }],
      ],
    },
  ],
}
